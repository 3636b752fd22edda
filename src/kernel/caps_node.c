/* Probes of what the node agent uses besides BPF, each in a network namespace of its own: iptables by either back end,
 * NFLOG, ipset, the kernel's WireGuard. Root makes the namespace as it is; anybody else inside a user namespace. See caps.h. */
#include "kernel/caps_impl.h"
#include "base/mem.h"
#include "kernel/caps.h"
#include "kernel/link.h"
#include "kernel/nflog.h"
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>

static int enter(void)
{
	struct ifreq ifr = { .ifr_name = "lo", .ifr_flags = IFF_UP };
	lat_autoclose int fd = -1;
	int r = unshare(CLONE_NEWNET) < 0 ? lat_cap_enter(CLONE_NEWNET) : 0;

	if (r < 0)
		return r;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	return fd < 0 || ioctl(fd, SIOCSIFFLAGS, &ifr) < 0 ? -errno : 0;
}

/* Runs a program of the system's folders; what it says first is the detail when it fails. -ENOENT: it is not there. */
static int run(const char *const *words, char *detail, size_t size)
{
	int pipes[2], status = 0;
	ssize_t n;
	pid_t pid;

	if (pipe2(pipes, O_CLOEXEC) < 0)
		return -errno;
	pid = fork();
	if (pid == 0) {
		const char *env[] = { "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "XTABLES_LOCKFILE=/dev/null", NULL };

		dup2(pipes[1], 1);
		dup2(pipes[1], 2);
		setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
		execvpe(words[0], (char *const *)words, (char *const *)env);
		_exit(errno == ENOENT ? 127 : 126);
	}
	close(pipes[1]);
	n = pid < 0 ? 0 : read(pipes[0], detail, size - 1);
	detail[n > 0 ? n : 0] = '\0';
	detail[strcspn(detail, "\n")] = '\0';
	close(pipes[0]);
	if (pid < 0)
		return -EAGAIN;
	while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status)) {
		bool absent = WIFEXITED(status) && WEXITSTATUS(status) == 127;

		if (absent)
			snprintf(detail, size, "%s is not installed", words[0]);
		return absent ? -ENOENT : -EIO;
	}
	detail[0] = '\0';
	return 0;
}

/* A chain of our own with state and a mark, as the enforcer makes them, for both families. */
static int iptables(const char *v4, const char *v6, char *detail, size_t size)
{
	const char *const families[] = { v4, v6 };
	int r = enter();

	for (size_t i = 0; r == 0 && i < LAT_ARRAY_SIZE(families); i++) {
		const char *const make[] = { families[i], "-w", "2", "-N", "LATTICE-PROBE", NULL };
		const char *const rule[] = { families[i], "-w", "2", "-A", "LATTICE-PROBE", "-m", "conntrack", "--ctstate",
			"ESTABLISHED", "-j", "ACCEPT", NULL };
		const char *const mark[] = { families[i], "-w", "2", "-A", "LATTICE-PROBE", "-j", "CONNMARK", "--set-xmark",
			"0x1/0xff", NULL };
		const char *const refuse[] = { families[i], "-w", "2", "-A", "LATTICE-PROBE", "-p", "tcp", "-j", "REJECT",
			"--reject-with", "tcp-reset", NULL };

		r = run(make, detail, size);
		r = r ? r : run(rule, detail, size);
		r = r ? r : run(mark, detail, size);
		r = r ? r : run(refuse, detail, size);
	}
	return r;
}

int lat_cap_iptables_nft(char *detail, size_t size)
{
	return iptables("iptables-nft", "ip6tables-nft", detail, size);
}

int lat_cap_iptables_legacy(char *detail, size_t size)
{
	return iptables("iptables-legacy", "ip6tables-legacy", detail, size);
}

int lat_cap_ipset(char *detail, size_t size)
{
	static const char *const make[] = { "ipset", "create", "lattice-probe", "hash:net", NULL };
	static const char *const add[] = { "ipset", "add", "lattice-probe", "192.0.2.0/24", NULL };
	int r = enter();

	r = r ? r : run(make, detail, size);
	return r ? r : run(add, detail, size);
}

static void count(void *ctx, const struct lat_nflog_packet *p)
{
	*(bool *)ctx |= p->prefix_size == 5 && memcmp(p->prefix, "probe", 5) == 0 && p->size > 0;
}

int lat_cap_nflog(char *detail, size_t size)
{
	static const char *const rule[] = { "iptables", "-w", "2", "-A", "OUTPUT", "-p", "udp", "-j", "NFLOG", "--nflog-group",
		"1", "--nflog-prefix", "probe", NULL };
	struct sockaddr_in to = { .sin_family = AF_INET, .sin_port = htons(9), .sin_addr = { htonl(INADDR_LOOPBACK) } };
	lat_autoclose int fd = -1;
	struct lat_nflog_losses losses;
	struct lat_nflog *log;
	struct pollfd wait = { .events = POLLIN };
	bool seen = false;
	int r = enter();

	r = r ? r : run(rule, detail, size);
	r = r ? r : lat_nflog_open(1, count, &seen, &log);
	if (r < 0)
		return r;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0 || sendto(fd, "x", 1, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		r = -errno;
	wait.fd = lat_nflog_fd(log);
	if (r == 0 && poll(&wait, 1, 1000) > 0)
		r = lat_nflog_dispatch(log, 16, &losses);
	lat_nflog_free(log);
	return r < 0 ? r : seen ? 0 : -EIO;
}

int lat_cap_wireguard(char *detail, size_t size)
{
	struct lat_links *links;
	int r = enter();

	r = r ? r : lat_links_open(-1, &links);
	if (r < 0)
		return r;
	r = lat_link_add(links, "wireguard", "wgprobe");
	lat_links_close(links);
	return r;
}

int lat_cap_wireguard_go(char *detail, size_t size)
{
	static const char *const version[] = { "wireguard-go", "--version", NULL };

	return run(version, detail, size);
}
