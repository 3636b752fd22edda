/* The frame of the probes, and those of namespaces, Landlock, devices and sockets; seccomp and descriptors are in
 * caps_notify.c, control groups and BPF in caps_bpf.c. See caps.h. */
#include "kernel/caps.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/caps_impl.h"
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/landlock.h>
#include <linux/netlink.h>
#include <linux/sock_diag.h>
#include <linux/unix_diag.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

static int write_file(const char *path, const char *text)
{
	lat_autoclose int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, text, strlen(text)) < 0)
		return -errno;
	return 0;
}

int lat_cap_enter(int clone_flags)
{
	uid_t uid = geteuid();
	gid_t gid = getegid();
	char map[64];
	int r;

	if (unshare(CLONE_NEWUSER | clone_flags) < 0)
		return -errno;
	r = write_file("/proc/self/setgroups", "deny");
	if (r < 0 && r != -ENOENT)
		return r;
	snprintf(map, sizeof(map), "0 %u 1", uid);
	r = write_file("/proc/self/uid_map", map);
	if (r < 0)
		return r;
	snprintf(map, sizeof(map), "0 %u 1", gid);
	return write_file("/proc/self/gid_map", map);
}

/* ---- the frame ---- */

static void run_child(lat_cap_probe probe, int out)
{
	struct lat_cap cap = { 0 };
	int r;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	signal(SIGPIPE, SIG_IGN);
	r = probe(cap.detail, sizeof(cap.detail));
	cap.error = r < 0 ? -r : 0;
	if (write(out, &cap, sizeof(cap)) < 0) { /* nobody waits any more */
	}
	_exit(0);
}

int lat_cap_try(lat_cap_probe probe, int timeout_ms, struct lat_cap *out)
{
	uint64_t until = lat_now_ns() + (uint64_t)timeout_ms * LAT_NS_PER_MS;
	struct lat_cap cap = { .error = ETIMEDOUT };
	struct pollfd wait = { .events = POLLIN };
	int pipes[2];
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid < 0) {
		int r = -errno;

		close(pipes[0]);
		close(pipes[1]);
		return r;
	}
	if (pid == 0) {
		setpgid(0, 0); /* a grandchild ends with it */
		close(pipes[0]);
		run_child(probe, pipes[1]);
	}
	close(pipes[1]);
	wait.fd = pipes[0];
	while (poll(&wait, 1, timeout_ms) < 0 && errno == EINTR && lat_now_ns() < until) {
	}
	if (wait.revents) {
		struct lat_cap got;

		/* Ended without a word: something killed it (a seccomp filter around us, for one). */
		cap.error = EPERM;
		if (read(pipes[0], &got, sizeof(got)) == sizeof(got))
			cap = got;
	}
	kill(-pid, SIGKILL);
	kill(pid, SIGKILL);
	while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
	}
	close(pipes[0]);
	*out = cap;
	return 0;
}

/* ---- namespaces ---- */

static int user_namespace(char *detail, size_t size)
{
	return lat_cap_enter(0);
}

static int net_namespace(char *detail, size_t size)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	lat_autoclose int fd = -1;
	int r = lat_cap_enter(CLONE_NEWNET);

	if (r < 0)
		return r;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

static int mount_namespace(char *detail, size_t size)
{
	int r = lat_cap_enter(CLONE_NEWNS);

	if (r < 0)
		return r;
	if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		return -errno;
	return mount("tmpfs", "/proc/sys/net", "tmpfs", 0, NULL) < 0 ? -errno : 0;
}

static int wait_status(pid_t pid)
{
	int status;

	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return -errno;
	return WIFEXITED(status) ? -WEXITSTATUS(status) : -EPERM;
}

static int pid_namespace(char *detail, size_t size)
{
	int r = lat_cap_enter(CLONE_NEWPID | CLONE_NEWNS);
	pid_t pid;

	if (r < 0)
		return r;
	pid = fork();
	if (pid < 0)
		return -errno;
	if (pid == 0) {
		if (getpid() != 1)
			_exit(ENOSYS);
		if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
			_exit(errno);
		_exit(mount("proc", "/proc", "proc", 0, NULL) < 0 ? errno : 0);
	}
	return wait_status(pid);
}

static int nested_user_namespace(char *detail, size_t size)
{
	int r = lat_cap_enter(CLONE_NEWNET);

	return r < 0 ? r : lat_cap_enter(0);
}

/* ---- devices, sockets, Landlock ---- */

static int tun_device(char *detail, size_t size)
{
	struct ifreq ifr = { .ifr_flags = IFF_TUN | IFF_NO_PI };
	lat_autoclose int fd = -1;
	int r = lat_cap_enter(CLONE_NEWNET);

	if (r < 0)
		return r;
	fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	return fd < 0 || ioctl(fd, TUNSETIFF, &ifr) < 0 ? -errno : 0;
}

static int ping_socket(char *detail, size_t size)
{
	lat_autoclose int v4 = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMP);
	lat_autoclose int v6 = -1;

	if (v4 < 0) {
		int r = -errno;

		/* Outside of ping_group_range root still has raw sockets. */
		v4 = socket(AF_INET, SOCK_RAW | SOCK_CLOEXEC, IPPROTO_ICMP);
		if (v4 >= 0)
			snprintf(detail, size, "by a raw socket");
		return v4 < 0 ? r : 0;
	}
	v6 = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, IPPROTO_ICMPV6);
	if (v6 < 0)
		snprintf(detail, size, "IPv4 only");
	return 0;
}

static int sock_diag(char *detail, size_t size)
{
	struct {
		struct nlmsghdr h;
		struct unix_diag_req req;
	} ask = {
		.h = { sizeof(ask), SOCK_DIAG_BY_FAMILY, NLM_F_REQUEST | NLM_F_DUMP, 1, 0 },
		.req = { .sdiag_family = AF_UNIX, .udiag_states = ~0u, .udiag_show = UDIAG_SHOW_VFS },
	};
	lat_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);
	char reply[8192] __attribute__((aligned(8)));
	const struct nlmsghdr *h = (const void *)reply;
	ssize_t n;

	if (fd < 0 || send(fd, &ask, sizeof(ask), 0) < 0)
		return -errno;
	n = recv(fd, reply, sizeof(reply), 0);
	if (n < 0)
		return -errno;
	if ((size_t)n >= NLMSG_LENGTH(sizeof(int)) && h->nlmsg_type == NLMSG_ERROR)
		return *(const int *)NLMSG_DATA(h);
	return 0;
}

static int landlock(char *detail, size_t size)
{
	struct landlock_ruleset_attr rules = { .handled_access_fs = LANDLOCK_ACCESS_FS_EXECUTE };
	long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
	lat_autoclose int fd = -1;

	if (abi < 0)
		return -errno;
	snprintf(detail, size, "ABI %ld", abi);
	fd = (int)syscall(SYS_landlock_create_ruleset, &rules, sizeof(rules), 0);
	if (fd < 0 || prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return -errno;
	return syscall(SYS_landlock_restrict_self, fd, 0) < 0 ? -errno : 0;
}

const struct lat_cap_test lat_kernel_caps[] = {
	{ "user_namespace", user_namespace },
	{ "net_namespace", net_namespace },
	{ "mount_namespace", mount_namespace },
	{ "pid_namespace", pid_namespace },
	{ "nested_user_namespace", nested_user_namespace },
	{ "seccomp_notify", lat_cap_notify },
	{ "seccomp_notify_addfd", lat_cap_notify_addfd },
	{ "seccomp_notify_killable", lat_cap_notify_killable },
	{ "seccomp_notify_sync", lat_cap_notify_sync },
	{ "pidfd_getfd", lat_cap_pidfd_getfd },
	{ "sock_diag", sock_diag },
	{ "ping_socket", ping_socket },
	{ "landlock", landlock },
	{ "tun_device", tun_device },
	{ "cgroup_v2", lat_cap_cgroup2 },
	{ "cgroup_v1", lat_cap_cgroup1 },
	{ "limit_memory", lat_cap_limit_memory },
	{ "limit_swap", lat_cap_limit_swap },
	{ "limit_cpu", lat_cap_limit_cpu },
	{ "limit_pids", lat_cap_limit_pids },
	{ "limit_io", lat_cap_limit_io },
	{ "bpf_tc", lat_cap_bpf_tc },
	{ "bpf_cgroup", lat_cap_bpf_cgroup },
	{ "tcx", lat_cap_tcx },
	{ "clsact", lat_cap_clsact },
	{ "bpf_ring", lat_cap_bpf_ring },
	{ "bpf_lpm", lat_cap_bpf_lpm },
	{ "bpf_swap", lat_cap_bpf_swap },
	{ "iptables_nft", lat_cap_iptables_nft },
	{ "iptables_legacy", lat_cap_iptables_legacy },
	{ "nflog", lat_cap_nflog },
	{ "ipset", lat_cap_ipset },
	{ "wireguard", lat_cap_wireguard },
	{ "wireguard_go", lat_cap_wireguard_go },
	{ NULL, NULL },
};
