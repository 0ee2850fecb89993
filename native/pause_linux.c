/* SPDX-License-Identifier: Apache-2.0
 *
 * The pause program for Linux (amd64, arm64): PID 1 of a container that jobs are exec'd into.
 *
 * It has no libc, because a libc is a hundred times larger than what is needed here, and brings
 * start-up code that looks for things (a /proc, an environment) that an image may not have.
 *
 * What it must do, and why:
 *   - reap: jobs' orphans become its children, and zombies would use up the limit of processes;
 *   - end at once on SIGTERM, SIGINT and SIGQUIT: the kernel drops signals that PID 1 does not
 *     handle, and a container would be killed only after its whole grace period;
 *   - end by itself after a lifetime (-t SECONDS), because a worker that died stops nothing;
 *   - ignore everything else, as what a terminal sends.
 *
 * All signals are blocked and then waited for, one at a time: there is no handler, so there is
 * no moment between looking and waiting in which one could be missed.
 */

#define VERSION "cdimage-pause 2\n"

enum { STDOUT = 1 };
enum { SIGINT = 2, SIGQUIT = 3, SIGALRM = 14, SIGTERM = 15, SIGCHLD = 17 };
enum { SIG_SETMASK = 2, SIGSET_BYTES = 8, WNOHANG = 1 };
enum { PR_SET_DUMPABLE = 4, PR_SET_NAME = 15, PR_SET_CHILD_SUBREAPER = 36 };

#if defined(__x86_64__)

enum { SYS_write = 1, SYS_rt_sigprocmask = 14, SYS_setitimer = 38, SYS_getpid = 39, SYS_wait4 = 61, SYS_prctl = 157,
       SYS_rt_sigtimedwait = 128, SYS_exit_group = 231 };

/* The kernel enters with arguments on the stack and no return address: C needs it aligned. */
__asm__(".globl _start\n_start:\n xor %ebp,%ebp\n mov %rsp,%rdi\n and $-16,%rsp\n call run\n");

static long call(long number, long a, long b, long c, long d)
{
    register long r10 __asm__("r10") = d;
    long result;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10)
                     : "rcx", "r11", "memory");
    return result;
}

#elif defined(__aarch64__)

enum { SYS_write = 64, SYS_exit_group = 94, SYS_setitimer = 103, SYS_rt_sigprocmask = 135, SYS_rt_sigtimedwait = 137,
       SYS_prctl = 167, SYS_getpid = 172, SYS_wait4 = 260 };

__asm__(".globl _start\n_start:\n mov x29,#0\n mov x30,#0\n mov x0,sp\n and sp,x0,#-16\n bl run\n");

static long call(long number, long a, long b, long c, long d)
{
    register long x8 __asm__("x8") = number;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    __asm__ volatile("svc 0" : "+r"(x0) : "r"(x8), "r"(x1), "r"(x2), "r"(x3) : "memory");
    return x0;
}

#else
#error "no pause program for this processor"
#endif

static _Noreturn void leave(void)
{
    for (;;)
        call(SYS_exit_group, 0, 0, 0, 0);
}

static void reap(void)
{
    /* One SIGCHLD may stand for many children. */
    while (call(SYS_wait4, -1, 0, WNOHANG, 0) > 0)
        ;
}

/* The timer sends SIGALRM, which is waited for like the others. */
static void end_after(const char *seconds)
{
    long timer[4] = { 0, 0, 0, 0 }; /* no interval; seconds and microseconds */

    for (; *seconds >= '0' && *seconds <= '9'; seconds++)
        timer[2] = timer[2] * 10 + *seconds - '0';
    call(SYS_setitimer, 0, (long)timer, 0, 0);
}

/* stack: argc, argv[0], …, argv[argc - 1], NULL */
__attribute__((used)) _Noreturn void run(const long *stack)
{
    static const unsigned long all = ~0UL;
    const char *option = stack[0] > 1 ? (const char *)stack[2] : "";
    int mortal = stack[0] > 2 && option[0] == '-' && option[1] == 't' && !option[2];

    if (option[0] == '-' && option[1] == 'v' && !option[2]) {
        call(SYS_write, STDOUT, (long)VERSION, sizeof VERSION - 1, 0);
        leave();
    }

    /* A job that runs as our user must not trace us: who is PID 1 outlives all jobs. */
    call(SYS_prctl, PR_SET_DUMPABLE, 0, 0, 0);
    call(SYS_rt_sigprocmask, SIG_SETMASK, (long)&all, 0, SIGSET_BYTES);
    call(SYS_prctl, PR_SET_NAME, (long)"pause", 0, 0);
    /* In a shared PID namespace orphans would go past us, to its init. */
    if (call(SYS_getpid, 0, 0, 0, 0) != 1)
        call(SYS_prctl, PR_SET_CHILD_SUBREAPER, 1, 0, 0);

    if (mortal)
        end_after((const char *)stack[3]);

    for (;;) {
        reap();
        switch (call(SYS_rt_sigtimedwait, (long)&all, 0, 0, SIGSET_BYTES)) {
        case SIGALRM:
            if (mortal)
                leave();
            break;
        case SIGINT:
        case SIGQUIT:
        case SIGTERM:
            leave();
        }
    }
}
