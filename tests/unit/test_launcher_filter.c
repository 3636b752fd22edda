/* The filter, tried from inside a real sandbox: what the namespaces do not cover is refused, with
 * the errno of a kernel without it, by each way to make a system call. */
#include "support/sandbox.h"
#include <linux/audit.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/ptrace.h>

#define CHECK(call, wanted)                                                                        \
	do {                                                                                       \
		errno = 0;                                                                         \
		long r_ = (long)(call);                                                            \
		if ((wanted) ? r_ != -1 || errno != (wanted) : r_ < 0) {                           \
			fprintf(stderr, "line %d: %s = %ld, %s\n", __LINE__, #call, r_,            \
				strerror(errno));                                                  \
			return 1;                                                                  \
		}                                                                                  \
	} while (0)

static int in_families(const char *arg)
{
	int pair[2];

	CHECK(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), 0);
	CHECK(socket(AF_UNIX, SOCK_SEQPACKET, 0), 0);
	CHECK(socket(AF_UNIX, SOCK_DGRAM, 0), ESOCKTNOSUPPORT);
	CHECK(socket(AF_UNIX, SOCK_RAW, 0),
		ESOCKTNOSUPPORT); /* the kernel makes a datagram socket of it */
	CHECK(socket(AF_INET, SOCK_STREAM, 0), 0);
	CHECK(socket(AF_INET, SOCK_STREAM, IPPROTO_TCP), 0);
	CHECK(socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP), EPROTONOSUPPORT);
	CHECK(socket(AF_INET, SOCK_DGRAM, 0), 0);
	CHECK(socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), 0);
	CHECK(socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE), EPROTONOSUPPORT);
	CHECK(socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), EPERM);
	CHECK(socket(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP), ESOCKTNOSUPPORT);
	CHECK(socket(AF_INET, 10 /* SOCK_PACKET */, 0), ESOCKTNOSUPPORT);
	CHECK(socket(AF_NETLINK, SOCK_RAW, 0), 0);
	CHECK(socket(AF_NETLINK, SOCK_RAW, 12 /* NETFILTER */), EPROTONOSUPPORT);
	CHECK(socket(AF_NETLINK, SOCK_DGRAM, 4 /* SOCK_DIAG */), EPROTONOSUPPORT);
	CHECK(socket(AF_PACKET, SOCK_RAW, 0), EPERM);
	CHECK(socket(AF_VSOCK, SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK(socket(AF_ALG, SOCK_SEQPACKET, 0), EAFNOSUPPORT);
	CHECK(socket(AF_BLUETOOTH, SOCK_RAW, 0), EAFNOSUPPORT);
	CHECK(socket(44 /* AF_XDP */, SOCK_RAW, 0), EAFNOSUPPORT);
	CHECK(socket(AF_UNSPEC, SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK(socket(200, SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair), ESOCKTNOSUPPORT);
	CHECK(socketpair(AF_INET, SOCK_STREAM, 0, pair), EOPNOTSUPP);
	CHECK(socketpair(30 /* AF_TIPC */, SOCK_STREAM, 0, pair), EAFNOSUPPORT);
	return 0;
}

/* The kernel reads an int: bits above it must change nothing. */
static int in_high_bits(const char *arg)
{
	const unsigned long junk = 0x7fffffff00000000ul;

	CHECK(syscall(SYS_socket, junk | AF_PACKET, SOCK_RAW, 0), EPERM);
	CHECK(syscall(SYS_socket, junk | AF_VSOCK, junk | SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK(syscall(SYS_socket, junk | AF_UNIX, junk | SOCK_DGRAM, 0), ESOCKTNOSUPPORT);
	CHECK(syscall(SYS_socket, junk | AF_INET, junk | SOCK_STREAM, junk), 0);
	CHECK(syscall(SYS_ioctl, 0, junk | TIOCSTI, "x"), EPERM);
	CHECK(syscall(SYS_ioctl, 0, junk | TIOCLINUX, "x"), EPERM);
	return 0;
}

static int in_namespaces(const char *arg)
{
	static const int flags[] = { CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWNS, CLONE_NEWPID,
		CLONE_NEWIPC, CLONE_NEWUTS, CLONE_NEWCGROUP, 0x80 /* CLONE_NEWTIME */ };
	char args[64] = { 0 };

	for (size_t i = 0; i < sizeof(flags) / sizeof(*flags); i++)
		CHECK(unshare(flags[i]), EPERM);
	for (size_t i = 0; i < 7; i++)
		CHECK(syscall(SYS_clone, flags[i] | SIGCHLD, 0, 0, 0, 0), EPERM);
	CHECK(unshare(CLONE_FILES), 0);
	CHECK(syscall(SYS_clone3, args, sizeof(args)), ENOSYS);
	CHECK(setns(0, 0), EPERM);
	CHECK(mount("none", "/tmp", "tmpfs", 0, NULL), EPERM);
	CHECK(umount2("/proc", MNT_DETACH), EPERM);
	CHECK(syscall(SYS_pivot_root, ".", "."), EPERM);
	CHECK(chroot("/"), EPERM);
	CHECK(syscall(SYS_fsopen, "tmpfs", 0), EPERM);
	CHECK(syscall(SYS_open_tree, AT_FDCWD, "/", 1), EPERM);
	return 0;
}

static int in_others(const char *arg)
{
	char args[128] = { 0 };
	struct sock_filter pass = BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW);
	struct sock_fprog program = { 1, &pass };

	CHECK(syscall(SYS_io_uring_setup, 1, args), ENOSYS);
	CHECK(syscall(SYS_io_uring_enter, 0, 0, 0, 0, 0), ENOSYS);
	CHECK(syscall(SYS_io_uring_register, 0, 0, 0, 0), ENOSYS);
	CHECK(ptrace(PTRACE_TRACEME, 0, 0, 0), EPERM);
	CHECK(syscall(SYS_process_vm_readv, getppid(), 0, 0, 0, 0, 0), EPERM);
	CHECK(syscall(SYS_process_vm_writev, getppid(), 0, 0, 0, 0, 0), EPERM);
	CHECK(syscall(SYS_pidfd_getfd, 0, 0, 0), EPERM);
	CHECK(syscall(SYS_kcmp, getpid(), getpid(), 0, 0, 0), EPERM);
	CHECK(syscall(SYS_bpf, 0, args, sizeof(args)), EPERM);
	CHECK(syscall(SYS_perf_event_open, args, 0, -1, -1, 0), EPERM);
	CHECK(syscall(SYS_userfaultfd, 0), EPERM);
	CHECK(syscall(SYS_keyctl, 0, 0, 0, 0, 0), EPERM);
	CHECK(syscall(SYS_open_by_handle_at, AT_FDCWD, args, 0), EPERM);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER,
		      &program),
		EPERM);
	CHECK(syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program), 0);
	CHECK(ioctl(0, TIOCSTI, "x"), EPERM);
	CHECK(syscall(100000), ENOSYS);
	return 0;
}

#ifdef __x86_64__
#define X32 0x40000000l

static int in_x32(const char *arg)
{
	CHECK(syscall(X32 | SYS_socket, AF_INET, SOCK_STREAM, 0), ENOSYS);
	CHECK(syscall(X32 | SYS_connect, 0, 0, 0), ENOSYS);
	CHECK(syscall(X32 | SYS_getpid), ENOSYS);
	return 0;
}

static long call32(long nr, long a, long b, long c)
{
	long r;

	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "a"(nr), "b"(a), "c"(b), "d"(c)
			 : "memory", "r8", "r9", "r10", "r11");
	if (r >= 0)
		return r;
	errno = (int)-r;
	return -1;
}

static void no_32_bit(int sig)
{
	_exit(77); /* a kernel without 32-bit calls has nothing to refuse */
}

static int in_i386(const char *arg)
{
	enum {
		I386_CONNECT = 362,
		I386_SOCKET = 359,
		I386_SOCKETPAIR = 360,
		I386_SOCKETCALL = 102,
		I386_PTRACE = 26,
		I386_UNSHARE = 310,
		I386_IO_URING_SETUP = 425
	};
	long fd;

	signal(SIGSEGV, no_32_bit);
	CHECK(call32(I386_SOCKET, AF_PACKET, SOCK_RAW, 0), EPERM);
	CHECK(call32(I386_SOCKET, AF_VSOCK, SOCK_STREAM, 0), EAFNOSUPPORT);
	CHECK(call32(I386_SOCKET, AF_UNIX, SOCK_DGRAM, 0), ESOCKTNOSUPPORT);
	CHECK(call32(I386_SOCKETCALL, 1, 0, 0), ENOSYS);
	CHECK(call32(I386_PTRACE, 0, 0, 0), EPERM);
	CHECK(call32(I386_UNSHARE, CLONE_NEWUSER, 0, 0), EPERM);
	CHECK(call32(I386_IO_URING_SETUP, 1, 0, 0), ENOSYS);
	fd = call32(I386_SOCKET, AF_INET, SOCK_STREAM, 0);
	CHECK(fd, 0);
	/* The supervisor of this test answers each connect with this errno: it was asked. */
	CHECK(call32(I386_CONNECT, fd, 0, 0), EXDEV);
	return 0;
}
#endif

static int in_connect(const char *arg)
{
	int fd = socket(AF_UNIX, SOCK_STREAM, 0);
	struct sockaddr sa = { .sa_family = AF_UNIX };

	CHECK(connect(fd, &sa, sizeof(sa)), EXDEV);
	return 0;
}

static void expect(const char *name)
{
	struct run r = { .refuse = EXDEV };
	int status = sandbox_inside(&r, name, "");

	assert_true(status == 0 || status == 77);
}

static void refuses_families_that_do_not_end_in_the_trap(void **state)
{
	expect("families");
}

static void compares_ints_by_their_low_half(void **state)
{
	expect("high_bits");
}

static void refuses_new_namespaces_and_mounts(void **state)
{
	expect("namespaces");
}

static void refuses_ways_round_and_into_others(void **state)
{
	expect("others");
}

static void hands_every_connect_to_the_supervisor(void **state)
{
	struct run r = { .refuse = EXDEV };

	assert_int_equal(sandbox_inside(&r, "connect", ""), 0);
	assert_int_equal(r.notified, 1);
}

#ifdef __x86_64__
static void x32_calls_do_not_exist(void **state)
{
	expect("x32");
}

static void calls_of_32_bit_programs_have_the_same_rules(void **state)
{
	expect("i386");
}
#endif

static const struct inside table[] = { { "families", in_families }, { "high_bits", in_high_bits },
	{ "namespaces", in_namespaces }, { "others", in_others }, { "connect", in_connect },
#ifdef __x86_64__
	{ "x32", in_x32 }, { "i386", in_i386 },
#endif
	{ NULL, NULL } };

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(refuses_families_that_do_not_end_in_the_trap),
		cmocka_unit_test(compares_ints_by_their_low_half),
		cmocka_unit_test(refuses_new_namespaces_and_mounts),
		cmocka_unit_test(refuses_ways_round_and_into_others),
		cmocka_unit_test(hands_every_connect_to_the_supervisor),
#ifdef __x86_64__
		cmocka_unit_test(x32_calls_do_not_exist),
		cmocka_unit_test(calls_of_32_bit_programs_have_the_same_rules),
#endif
	};

	return cmocka_run_group_tests_name("launcher.filter", all, NULL, NULL);
}

int main(int argc, char **argv)
{
	return sandbox_main(argc, argv, table, tests);
}
