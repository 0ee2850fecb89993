"""containerd, over its gRPC socket: thin typed modules, one a service, and the store on them."""
