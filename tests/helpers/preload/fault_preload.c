/* Preloaded into latticed by tests/e2e/agent_faults_spec.lua and agent_ends_spec.lua: makes bpf(2) and fork(2) fail, or ends the
 * process there. The file that LATTICE_FAULTS names says which, in one line:
 *
 *	bpf COMMAND NTH errno NUMBER	from the NTH call of that command on (-1: of any) it fails so
 *	bpf COMMAND NTH kill 0		at that call the process is killed
 *	fork -1 NTH errno|kill NUMBER	the same for fork(2)
 *
 * Counting begins when the file's text changes; no file, no fault. */
#define _GNU_SOURCE 1
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static long (*real_syscall)(long, ...);
static pid_t (*real_fork)(void);
static const char *path;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static char known[128];
static long count;

__attribute__((constructor)) static void set(void)
{
	real_syscall = (long (*)(long, ...))dlsym(RTLD_NEXT, "syscall");
	real_fork = (pid_t (*)(void))dlsym(RTLD_NEXT, "fork");
	if (strcmp(program_invocation_short_name, "latticed") != 0)
		return; /* on the way there */
	path = getenv("LATTICE_FAULTS");
	unsetenv("LD_PRELOAD");
}

/* The errno that this call fails with, or 0. */
static int fault(const char *kind, long command)
{
	char text[sizeof(known)] = "", what[16], how[16];
	long wanted, nth, number;
	int fd, result = 0;
	ssize_t n;

	fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
	if (fd < 0)
		return 0;
	n = read(fd, text, sizeof(text) - 1);
	close(fd);
	if (n <= 0 || sscanf(text, "%15s %ld %ld %15s %ld", what, &wanted, &nth, how, &number) != 5)
		return 0;
	pthread_mutex_lock(&lock);
	if (strcmp(text, known) != 0) {
		strcpy(known, text);
		count = 0;
	}
	if (strcmp(what, kind) == 0 && (wanted < 0 || wanted == command) && ++count >= nth) {
		if (strcmp(how, "kill") == 0)
			kill(getpid(), SIGKILL);
		result = (int)number;
	}
	pthread_mutex_unlock(&lock);
	return result;
}

long syscall(long number, ...)
{
	long a[6];
	va_list args;
	int error;

	va_start(args, number);
	for (int i = 0; i < 6; i++)
		a[i] = va_arg(args, long);
	va_end(args);
	error = number == SYS_bpf ? fault("bpf", (int)a[0]) : 0;
	if (error) {
		errno = error;
		return -1;
	}
	return real_syscall(number, a[0], a[1], a[2], a[3], a[4], a[5]);
}

pid_t fork(void)
{
	int error = fault("fork", -1);

	if (error) {
		errno = error;
		return -1;
	}
	return real_fork();
}
