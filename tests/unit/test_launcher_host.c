/* The launcher in the host's network (kernel mode): the command cannot leave its group, and the filter
 * lets through only the connects that the group's programs judge. */
#include "support/host_sandbox.h"
#include <linux/bpf.h>
#include <linux/magic.h>
#include <netinet/in.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>

/* ---- inside ---- */

static int check_mount(const char *point)
{
	static const char *const files[] = { "cgroup.procs", "cgroup.threads", "tasks",
		"cgroup.subtree_control", "release_agent", "new-group" };
	char path[4200];
	struct statvfs fs;

	if (statvfs(point, &fs))
		return 0; /* out of reach */
	if (!(fs.f_flag & ST_RDONLY))
		return WRONG;
	for (size_t i = 0; i < COUNT(files); i++) {
		join_path(path, sizeof(path), point, files[i]);
		if (open(path, O_WRONLY) >= 0 || open(path, O_WRONLY | O_CREAT, 0600) >= 0)
			return WRONG;
	}
	if (!mkdir(path, 0700) || !rmdir(path))
		return WRONG;
	if (!mount(NULL, point, NULL, MS_REMOUNT | MS_BIND, NULL) || errno != EPERM)
		return WRONG;
	if (!umount2(point, MNT_DETACH) || errno != EPERM)
		return WRONG;
	return 0;
}

static int in_cgroup_files(const char *arg)
{
	static char line[1 << 15];
	FILE *f = fopen("/proc/self/mountinfo", "r");
	unsigned seen = 0;

	if (!f)
		return WRONG;
	while (fgets(line, sizeof(line), f)) {
		char point[4096], *type = strstr(line, " - ");
		struct statfs fs;
		int r;

		if (!type || sscanf(line, "%*s %*s %*s %*s %4095s", point) != 1)
			return WRONG;
		type += 3;
		type[strcspn(type, " ")] = '\0';
		if (!strcmp(type, "bpf") && !statfs(point, &fs) && fs.f_type == BPF_FS_MAGIC)
			return WRONG; /* none is seen */
		if (strncmp(type, "cgroup", 6))
			continue;
		seen++;
		r = check_mount(point);
		if (r) {
			fprintf(stderr, "%s on %s\n", type, point);
			return r;
		}
	}
	fclose(f);
	return seen || !group[0] ? 0 : WRONG;
}

/* ARG: a folder with a cgroup2, a bpf and a proc mount. */
static int in_other_mounts(const char *arg)
{
	char path[256];

	join_path(path, sizeof(path), arg, "cgroup/cgroup.procs");
	if (access(path, F_OK) || open(path, O_WRONLY) >= 0 || errno != EROFS)
		return WRONG;
	join_path(path, sizeof(path), arg, "a b/cgroup.procs");
	if (access(path, F_OK) || open(path, O_WRONLY) >= 0 || errno != EROFS)
		return WRONG;
	join_path(path, sizeof(path), arg, "proc/sys/kernel/core_pattern");
	if (access(path, F_OK) || open(path, O_WRONLY) >= 0 || errno != EROFS)
		return WRONG;
	join_path(path, sizeof(path), arg, "bpf/pins");
	if (!access(path, F_OK) || errno != ENOENT)
		return WRONG;
	return !mkdir(path, 0700) || errno != EROFS ? WRONG : 0;
}

static int in_own_folders(const char *arg)
{
	if (access("/run/lattice/control.sock", F_OK) || !unlink("/run/lattice/control.sock") || errno != EROFS)
		return WRONG;
	return open("/run/lattice/new", O_WRONLY | O_CREAT, 0600) >= 0 || errno != EROFS ? WRONG : 0;
}

static const int lengths[] = { 0, 1, 2, 15, 16, 17, 24, 27, 28, 29, 32, 110, 128, 129, -1 };

/* No such descriptor: the kernel says EBADF, the supervisor of this test EXDEV. */
static int connect_errno(long (*call)(long fd, long address, long length), long length)
{
	return call(-1, 0, length) == -1 ? errno : 0;
}

static long connect64(long fd, long address, long length)
{
	return syscall(SYS_connect, fd, address, length);
}

static int check_lengths(long (*call)(long fd, long address, long length), bool wide, bool ask)
{
	const long junk = wide ? 0x7fffffff00000000l : 0;

	for (size_t i = 0; i < COUNT(lengths); i++) {
		const bool passes = !ask && (lengths[i] == 16 || lengths[i] == 28);
		const int wanted = passes ? EBADF : EXDEV;

		if (connect_errno(call, lengths[i]) != wanted ||
			connect_errno(call, junk | (uint32_t)lengths[i]) != wanted) {
			fprintf(stderr, "length %d: %s\n", lengths[i], strerror(errno));
			return WRONG;
		}
	}
	return 0;
}

#ifdef __x86_64__
static long connect32(long fd, long address, long length)
{
	long r;

	__asm__ volatile("int $0x80"
			 : "=a"(r)
			 : "a"(362l), "b"(fd), "c"(address), "d"(length)
			 : "memory", "r8", "r9", "r10", "r11");
	errno = (int)-r;
	return r < 0 ? -1 : r;
}

static void no_32_bit(int sig)
{
	_exit(0);
}
#endif

static int in_connects(const char *arg)
{
	const bool ask = *arg == 'a';
	int r = check_lengths(connect64, true, ask);

#ifdef __x86_64__
	if (!r && (syscall(0x40000000l | SYS_connect, -1, 0, 16) != -1 || errno != ENOSYS))
		return WRONG;
	signal(SIGSEGV, no_32_bit);
	if (!r)
		r = check_lengths(connect32, false, ask);
#endif
	return r;
}

static int in_sockets(const char *arg)
{
	static const struct {
		int family, type, protocol, error;
	} calls[] = {
		{ AF_INET, SOCK_STREAM, 0, 0 },
		{ AF_INET6, SOCK_STREAM, IPPROTO_TCP, 0 },
		{ AF_INET, SOCK_DGRAM, IPPROTO_UDP, 0 },
		{ AF_INET, SOCK_STREAM, 262 /* MPTCP */, EPROTONOSUPPORT },
		{ AF_INET6, SOCK_STREAM, 262, EPROTONOSUPPORT },
		{ AF_INET, SOCK_STREAM, IPPROTO_SCTP, EPROTONOSUPPORT },
		{ AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE, EPROTONOSUPPORT },
		{ AF_INET, SOCK_RAW, IPPROTO_ICMP, EPERM },
		{ AF_PACKET, SOCK_RAW, 0, EPERM },
		{ AF_UNIX, SOCK_STREAM, 0, 0 },
		{ AF_UNIX, SOCK_DGRAM, 0, ESOCKTNOSUPPORT },
		{ AF_VSOCK, SOCK_STREAM, 0, EAFNOSUPPORT },
		{ AF_NETLINK, SOCK_RAW, 0, 0 },
	};
	static const struct {
		int level, name, error;
	} options[] = {
		{ IPPROTO_IP, IP_ADD_MEMBERSHIP, ENODEV },
		{ IPPROTO_IP, IP_ADD_SOURCE_MEMBERSHIP, ENODEV },
		{ IPPROTO_IP, MCAST_JOIN_GROUP, ENODEV },
		{ IPPROTO_IP, MCAST_JOIN_SOURCE_GROUP, ENODEV },
		{ IPPROTO_IPV6, IPV6_JOIN_GROUP, ENODEV },
		{ IPPROTO_IPV6, IPV6_JOIN_ANYCAST, ENODEV },
		{ IPPROTO_IPV6, MCAST_JOIN_GROUP, ENODEV },
		{ IPPROTO_IPV6, MCAST_JOIN_SOURCE_GROUP, ENODEV },
		{ IPPROTO_IPV6, IPV6_RTHDR, EPERM },
		{ IPPROTO_IPV6, IPV6_2292RTHDR, EPERM },
	};
	static const char *const devices[] = { "/dev/net/tun", "/dev/vhost-net", "/dev/vhost-vsock" };
	struct stat st;

	for (size_t i = 0; i < COUNT(devices); i++)
		if (!stat(devices[i], &st) && S_ISCHR(st.st_mode))
			return WRONG;
	for (size_t i = 0; i < COUNT(calls); i++) {
		int fd = socket(calls[i].family, calls[i].type, calls[i].protocol);

		if (fd < 0 ? errno != calls[i].error : calls[i].error) {
			/* The host may have no IPv6. */
			if (fd < 0 && errno == EAFNOSUPPORT && calls[i].family == AF_INET6)
				continue;
			fprintf(stderr, "call %zu: %s\n", i, strerror(errno));
			return WRONG;
		}
	}
	for (size_t i = 0; i < COUNT(options); i++) {
		int fd = socket(options[i].level == IPPROTO_IP ? AF_INET : AF_INET6, SOCK_DGRAM, 0);
		char value[256] = { 0 };

		if (fd >= 0 && (setsockopt(fd, options[i].level, options[i].name, value, sizeof(value)) != -1 ||
				       errno != options[i].error)) {
			fprintf(stderr, "option %zu: %s\n", i, strerror(errno));
			return WRONG;
		}
	}
	if (unshare(CLONE_NEWNET) != -1 || setns(0, 0) != -1 || unshare(CLONE_NEWCGROUP) != -1)
		return WRONG;
	if (ioctl(0, 0x400454ca /* TUNSETIFF */, "\0") != -1 || errno != EPERM)
		return WRONG;
	return ioctl(0, 0x400454d9 /* TUNSETQUEUE */, "\0") == -1 && errno == EPERM ? 0 : WRONG;
}

static int in_stdin_is_null(const char *arg)
{
	struct stat st;

	return !fstat(0, &st) && S_ISCHR(st.st_mode) && st.st_rdev == 0x103 ? 0 : WRONG;
}

static int in_stdin_is_file(const char *arg)
{
	struct stat st;

	return !fstat(0, &st) && S_ISREG(st.st_mode) ? 0 : WRONG;
}

/* ---- outside ---- */

static void no_cgroup_can_be_written(void **state)
{
	assert_int_equal(run("cgroup_files", ""), 0);
}

static void other_mounts_of_the_kernel_are_read_only_too(void **state)
{
	static const struct {
		const char *name, *type;
	} mounts[] = { { "cgroup", "cgroup2" }, { "a b", "cgroup2" }, { "proc", "proc" },
		{ "bpf", "bpf" } };
	char path[256];
	int status;

	if (geteuid()) {
		print_message("as root alone: it was seen there\n");
		skip();
	}
	for (size_t i = 0; i < COUNT(mounts); i++) {
		join_path(path, sizeof(path), folder, mounts[i].name);
		assert_int_equal(mkdir(path, 0755), 0);
		if (mount("none", path, mounts[i].type, 0, NULL)) {
			print_message("no %s file system here\n", mounts[i].type);
			skip();
		}
	}
	join_path(path, sizeof(path), folder, "bpf/pins");
	assert_int_equal(mkdir(path, 0755), 0);
	status = run("other_mounts", folder);
	assert_int_equal(access(path, F_OK), 0);
	rmdir(path);
	for (size_t i = 0; i < COUNT(mounts); i++) {
		join_path(path, sizeof(path), folder, mounts[i].name);
		umount2(path, MNT_DETACH);
		rmdir(path);
	}
	assert_int_equal(status, 0);
}

static void the_agents_own_folders_are_read_only(void **state)
{
	int fd, status;

	if (geteuid()) {
		print_message("as root alone: it was seen there\n");
		skip();
	}
	assert_int_equal(mount("none", "/run", "tmpfs", 0, NULL), 0);
	assert_int_equal(mkdir("/run/lattice", 0755), 0);
	fd = open("/run/lattice/control.sock", O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	assert_true(fd >= 0);
	close(fd);
	status = run("own_folders", "");
	assert_int_equal(umount2("/run", MNT_DETACH), 0);
	assert_int_equal(status, 0);
}

static void connects_of_ips_length_reach_the_kernel(void **state)
{
	assert_int_equal(run("connects", "tables"), 0);
}

static void every_connect_is_asked_about_where_questions_are(void **state)
{
	struct placing p = { 0 };
	struct run r = HOST(&p);

	r.spec.ask = true;
	assert_int_equal(sandbox_inside(&r, "connects", "ask"), 0);
	assert_true(r.notified >= 2 * COUNT(lengths));
}

static void sockets_that_no_program_judges_are_refused(void **state)
{
	assert_int_equal(run("sockets", ""), 0);
}

static int with_stdin(const char *path, int flags, const char *name)
{
	int keep = fcntl(0, F_DUPFD_CLOEXEC, 3), fd = open(path, flags | O_CLOEXEC), status;

	if (fd < 0)
		return -1;
	assert_int_equal(dup2(fd, 0), 0);
	close(fd);
	status = run(name, "");
	assert_int_equal(dup2(keep, 0), 0);
	close(keep);
	return status;
}

static void descriptors_that_lead_out_do_not_come_in_as_stdin(void **state)
{
	char path[300];

	assert_int_equal(with_stdin("/proc/self/ns/net", O_RDONLY, "stdin_is_null"), 0);
	assert_int_equal(with_stdin("/", O_RDONLY, "stdin_is_null"), 0);
	assert_int_equal(with_stdin("/", O_PATH, "stdin_is_null"), 0);
	assert_int_equal(with_stdin("/proc/sys/kernel/core_pattern", O_RDONLY, "stdin_is_null"), 0);
	assert_int_equal(with_stdin("/proc/cpuinfo", O_RDONLY, "stdin_is_file"), 0);
	assert_int_equal(with_stdin("/etc/passwd", O_RDONLY, "stdin_is_file"), 0);
	if (!group[0])
		return;
	join_path(path, sizeof(path), group, "cgroup.procs");
	assert_int_equal(with_stdin(path, O_RDONLY, "stdin_is_null"), 0);
	assert_int_equal(with_stdin(path, O_RDWR, "stdin_is_null"), 0);
}

/* ---- the self-check, with and without programs ---- */

static int attach(uint32_t type, uint32_t hook, int value)
{
	const struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = value },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	union bpf_attr load = { .prog_type = type, .insn_cnt = COUNT(code),
		.insns = (uintptr_t)code, .license = (uintptr_t) "GPL",
		.expected_attach_type = hook };
	int prog = (int)syscall(SYS_bpf, BPF_PROG_LOAD, &load, sizeof(load));
	int at = open(group, O_RDONLY | O_DIRECTORY | O_CLOEXEC), r;
	union bpf_attr attr = { .target_fd = (uint32_t)at, .attach_bpf_fd = (uint32_t)prog,
		.attach_type = hook };

	r = prog < 0 ? -1 : (int)syscall(SYS_bpf, BPF_PROG_ATTACH, &attr, sizeof(attr));
	close(prog);
	close(at);
	return r;
}

static void the_self_check_finds_a_hole_and_a_wall(void **state)
{
	struct placing p = { 0 };
	struct run r = HOST(&p);

	if (!group[0]) {
		print_message("as root alone, with a cgroup v2\n");
		skip();
	}
	/* Nothing refuses but the missing route, which says nothing. */
	r.probe = true;
	assert_int_equal(sandbox_run(&r, (const char *[]){ "true", NULL }), 0);
	assert_int_equal(r.probed.extra, LAT_PROBE_COUNT);
	assert_int_equal(r.probed.value,
		1 << LAT_PROBE_CONNECT | 1 << LAT_PROBE_FASTOPEN | 1 << LAT_PROBE_UDP);
	if (attach(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, 0) ||
		attach(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_UDP4_SENDMSG, 0)) {
		print_message("no programs on cgroups here: %s\n", strerror(errno));
		skip();
	}
	assert_int_equal(sandbox_run(&r, (const char *[]){ "true", NULL }), 0);
	assert_int_equal(r.probed.extra, LAT_PROBE_COUNT);
	assert_int_equal(r.probed.value, 0);
}

static const struct inside table[] = { { "cgroup_files", in_cgroup_files },
	{ "other_mounts", in_other_mounts }, { "own_folders", in_own_folders },
	{ "connects", in_connects }, { "sockets", in_sockets },
	{ "stdin_is_null", in_stdin_is_null }, { "stdin_is_file", in_stdin_is_file },
	{ NULL, NULL } };

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(no_cgroup_can_be_written),
		cmocka_unit_test(other_mounts_of_the_kernel_are_read_only_too),
		cmocka_unit_test(the_agents_own_folders_are_read_only),
		cmocka_unit_test(connects_of_ips_length_reach_the_kernel),
		cmocka_unit_test(every_connect_is_asked_about_where_questions_are),
		cmocka_unit_test(sockets_that_no_program_judges_are_refused),
		cmocka_unit_test(descriptors_that_lead_out_do_not_come_in_as_stdin),
		cmocka_unit_test(the_self_check_finds_a_hole_and_a_wall),
	};

	return cmocka_run_group_tests_name("launcher.host", all, set_up, tear_down);
}

int main(int argc, char **argv)
{
	return host_main(argc, argv, table, tests);
}
