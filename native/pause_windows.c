/* SPDX-License-Identifier: Apache-2.0
 *
 * The pause program for Windows (amd64): the first process of a container that jobs are
 * exec'd into. Windows has no zombies, so it only has to stay, and to end when it is asked to.
 *
 * It has no C runtime and imports from kernel32 alone, which every Windows image has. (With user32
 * it would not count as a console program, and would not be told of logoff and shutdown.)
 */

#define VERSION "cdimage-pause 1\r\n"

typedef unsigned long DWORD;
typedef int BOOL;
typedef void *HANDLE;

#define API __declspec(dllimport)
#define STD_OUTPUT_HANDLE ((DWORD)-11)
#define INFINITE 0xFFFFFFFFul

API const char *__stdcall GetCommandLineA(void);
API HANDLE __stdcall GetStdHandle(DWORD which);
API BOOL __stdcall WriteFile(HANDLE file, const void *data, DWORD size, DWORD *done, void *async);
API BOOL __stdcall SetConsoleCtrlHandler(BOOL(__stdcall *handler)(DWORD), BOOL add);
API void __stdcall Sleep(DWORD milliseconds);
API __declspec(noreturn) void __stdcall ExitProcess(unsigned int code);

/* Ctrl-C, Ctrl-Break, close, logoff and shutdown all come here, in a thread of their own. */
static BOOL __stdcall on_control(DWORD event)
{
    (void)event;
    ExitProcess(0);
}

/* The last two characters: the program's own path never ends in " -v". */
static BOOL asks_version(const char *line)
{
    const char *end = line;
    while (*end)
        end++;
    return end - line > 3 && end[-1] == 'v' && end[-2] == '-' && end[-3] == ' ';
}

void mainCRTStartup(void)
{
    if (asks_version(GetCommandLineA())) {
        DWORD done;
        WriteFile(GetStdHandle(STD_OUTPUT_HANDLE), VERSION, sizeof VERSION - 1, &done, 0);
        ExitProcess(0);
    }
    SetConsoleCtrlHandler(on_control, 1);
    /* A process group of its own, or a parent that ignores Ctrl-C, would have us ignore it too. */
    SetConsoleCtrlHandler(0, 0);
    for (;;)
        Sleep(INFINITE);
}
