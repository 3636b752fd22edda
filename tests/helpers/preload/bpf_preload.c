/* Preloaded into latticed: while the file that BPF_FAILS names is there, the kernel makes no BPF map and loads no program any
 * more ("map full", "load refused"). */
#include <dlfcn.h>
#include <errno.h>
#include <linux/bpf.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

long syscall(long number, ...)
{
	long (*real)(long, ...) = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	const char *file = getenv("BPF_FAILS");
	va_list args;
	long a[6];

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	if (number == SYS_bpf && (a[0] == BPF_MAP_CREATE || a[0] == BPF_PROG_LOAD) && file && access(file, F_OK) == 0) {
		errno = E2BIG;
		return -1;
	}
	return real(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}
