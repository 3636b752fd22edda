/* The supervisor's side: plans, forks init into its namespaces, takes what init made, and the words
 * that go between. */
#include "base/log.h"
#include "base/mem.h"
#include "launcher/setup.h"
#include "launcher/trap.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <linux/netlink.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define READY_MS 20000

static int explain(struct lat_launch_error *e, int error, bool missing, const char *format, ...)
	__attribute__((format(printf, 4, 5)));

static int explain(struct lat_launch_error *e, int error, bool missing, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vsnprintf(e->text, sizeof(e->text), format, args);
	va_end(args);
	e->missing_feature = missing;
	return error;
}

/* Value of a sysctl, -1 where it does not exist. */
static long sysctl_value(const char *path)
{
	lat_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	char text[32] = "";

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return -1;
	return strtol(text, NULL, 10);
}

/* Why this host does not let us have a user namespace, and the way out; "" if no reason is known.
 */
static const char *userns_hint(void)
{
	if (sysctl_value("/proc/sys/kernel/unprivileged_userns_clone") == 0)
		return "; user namespaces are switched off here: sysctl "
		       "kernel.unprivileged_userns_clone=1";
	if (sysctl_value("/proc/sys/user/max_user_namespaces") == 0)
		return "; user namespaces are switched off here: sysctl "
		       "user.max_user_namespaces=10000";
	if (sysctl_value("/proc/sys/kernel/apparmor_restrict_unprivileged_userns") == 1)
		return "; AppArmor restricts user namespaces here: give lattice a profile with "
		       "'userns,', or "
		       "sysctl kernel.apparmor_restrict_unprivileged_userns=0";
	return "";
}

/* Only inside a trap is every address one's own. */
static bool inside_a_sandbox(void)
{
	struct sockaddr_in own = { .sin_family = AF_INET };
	struct ifreq lo = { .ifr_name = "lo" };
	lat_autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	inet_pton(AF_INET, LAT_PROBE_ADDR4, &own.sin_addr);
	/* While lo is down there is no table of one's own addresses, and any may be bound. */
	return fd >= 0 && !bind(fd, (struct sockaddr *)&own, sizeof(own)) &&
	       !ioctl(fd, SIOCGIFFLAGS, &lo) && lo.ifr_flags & IFF_UP;
}

static bool has_ipv6(void)
{
	lat_autoclose int fd = socket(AF_INET6, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	return fd >= 0;
}

static int plan(struct lat_setup *s, struct lat_launch_error *e)
{
	const struct lat_launch_spec *spec = s->spec;
	int r;

	if (!spec->argv || !spec->argv[0])
		return explain(e, -EINVAL, false, "no command given");
	if (spec->network == LAT_NETWORK_HOST && !spec->place)
		return explain(e, -EINVAL, false,
			"the host's network without a group whose programs judge it");
	if (inside_a_sandbox())
		return explain(e, -EPERM, false,
			"this process is already inside a Lattice sandbox, and sandboxes do not "
			"nest: "
			"run the command itself, the policy around it holds");
	s->ipv6 = has_ipv6();
	r = lat_identity_plan(s);
	if (r)
		return explain(e, r, false, "%s", s->failure.text);
	lat_mounts_plan(s);
	r = lat_filter_build(&s->filter, spec->network == LAT_NETWORK_TRAP ? LAT_FILTER_TRAP
					 : spec->ask		       ? LAT_FILTER_ASK
								       : LAT_FILTER_TABLES);
	if (r)
		return explain(e, r, false, "seccomp filter: %s",
			r == -E2BIG ? "too long"
				    : "libseccomp gives no number for one of its calls");
	if (spec->network == LAT_NETWORK_HOST)
		return 0;
	r = lat_trap_build(&s->trap[0], s->ipv6, true, spec->host_ports, spec->host_port_count);
	if (!r)
		r = lat_trap_build(
			&s->trap[1], s->ipv6, false, spec->host_ports, spec->host_port_count);
	if (r == -E2BIG)
		return explain(e, r, false, "more than %d separate ranges of host ports: join some",
			LAT_TRAP_SPANS_MAX);
	return r ? explain(e, r, false, "building the trap's rules: %s", strerror(-r)) : 0;
}

/* The maps of a caller that may map more than itself: written from outside. */
static int map_from_outside(const struct lat_setup *s, pid_t init)
{
	const char *const names[] = { "setgroups", "uid_map", "gid_map" };
	const char *const texts[] = { "deny", s->uid_map, s->gid_map };
	int r = 0;

	for (size_t i = 0; i < LAT_ARRAY_SIZE(names) && !r; i++) {
		char path[64];

		snprintf(path, sizeof(path), "/proc/%d/%s", init, names[i]);
		r = lat_write_file(path, texts[i]);
	}
	return r;
}

/* What is done to init from outside while it waits, before it does anything. */
static int prepare_init(const struct lat_setup *s, pid_t init, struct lat_launch_error *e)
{
	const struct lat_msg go = { .type = LAT_MSG_GO };
	char say[256] = "";
	int r = s->whole_map ? map_from_outside(s, init) : 0;

	if (r)
		return explain(e, r, true, "user namespace: writing its id maps: %s%s",
			strerror(-r), userns_hint());
	if (!lat_setup_waits(s))
		return 0;
	r = s->spec->place ? s->spec->place(s->spec->place_ctx, init, say) : 0;
	if (r)
		return explain(e, r, false, "cgroup: %s", say[0] ? say : strerror(-r));
	r = lat_msg_send(s->control, &go, NULL, 0);
	return r ? explain(e, r, true, "the sandbox's init ended early%s", userns_hint()) : 0;
}

/* Waits for init's first message. */
static int await_ready(struct lat_sandbox *sandbox, struct lat_msg *msg, int *fds, size_t *nfds)
{
	struct pollfd p = { sandbox->control, POLLIN, 0 };
	int r;

	do {
		r = poll(&p, 1, READY_MS);
	} while (r < 0 && errno == EINTR);
	if (r <= 0)
		return r ? -errno : -ETIMEDOUT;
	return lat_msg_receive(sandbox->control, msg, fds, nfds);
}

/* Gives the descriptors their names. */
static int take_given(
	struct lat_sandbox *sandbox, const struct lat_msg *msg, const int *fds, size_t nfds)
{
	int *const slots[] = {
		[LAT_GIVEN_NOTIFY] = &sandbox->notify,
		[LAT_GIVEN_LISTENER] = &sandbox->listener,
		[LAT_GIVEN_QUEUE] = &sandbox->queue,
		[LAT_GIVEN_DIAG] = &sandbox->diag,
		[LAT_GIVEN_NFT] = &sandbox->nft,
		[LAT_GIVEN_RAW4] = &sandbox->raw4,
		[LAT_GIVEN_RAW6] = &sandbox->raw6,
		[LAT_GIVEN_DNS_UDP] = &sandbox->dns_udp,
		[LAT_GIVEN_DNS_TCP] = &sandbox->dns_tcp,
		[LAT_GIVEN_ROOT] = &sandbox->root,
	};
	size_t used = 0;

	/* The kernel keeps back what does not fit our descriptor table. */
	if (nfds != (size_t)__builtin_popcount(msg->extra)) {
		while (nfds--)
			close(fds[nfds]);
		return -EMFILE;
	}
	for (size_t i = 0; i < LAT_GIVEN_COUNT; i++) {
		int fd;

		if (!(msg->extra & 1u << i))
			continue;
		fd = *slots[i] = fds[used++];
		if (i != LAT_GIVEN_ROOT && fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK))
			return -errno;
	}
	return 0;
}

static void close_all(struct lat_sandbox *sandbox)
{
	int *const fds[] = { &sandbox->pidfd, &sandbox->control, &sandbox->notify,
		&sandbox->listener, &sandbox->queue, &sandbox->diag, &sandbox->nft, &sandbox->raw4,
		&sandbox->raw6, &sandbox->dns_udp, &sandbox->dns_tcp, &sandbox->root };

	for (size_t i = 0; i < LAT_ARRAY_SIZE(fds); i++)
		lat_close(fds[i]);
}

/* After the fork, in the supervisor: until the sandbox is ready. */
static int take_over(struct lat_setup *s, struct lat_sandbox *sandbox, struct lat_launch_error *e)
{
	struct lat_msg msg;
	int fds[LAT_MSG_MAX_FDS];
	size_t nfds = LAT_MSG_MAX_FDS;
	int r = prepare_init(s, sandbox->init, e);

	if (r)
		return r;
	r = await_ready(sandbox, &msg, fds, &nfds);
	if (r)
		return explain(e, r, true, "the sandbox's init %s%s",
			r == -ETIMEDOUT ? "was not ready within 20 s" : "ended before it was ready",
			userns_hint());
	if (msg.type == LAT_MSG_READY) {
		if (msg.text[0])
			lat_warn("%s", msg.text);
		r = take_given(sandbox, &msg, fds, nfds);
		return r ? explain(e, r, false, "descriptors from inside: %s", strerror(-r)) : 0;
	}
	while (nfds--)
		close(fds[nfds]);
	r = msg.type == LAT_MSG_FAILED && msg.value ? -msg.value : -EPROTO;
	return explain(
		e, r, true, "%s%s", msg.text, r == -EPERM || r == -EACCES ? userns_hint() : "");
}

static int start(struct lat_setup *s, struct lat_sandbox *sandbox, struct lat_launch_error *e)
{
	const unsigned long trap = s->spec->network == LAT_NETWORK_TRAP ? CLONE_NEWNET : 0;
	const unsigned long flags = CLONE_NEWUSER | CLONE_NEWNS | CLONE_NEWPID | CLONE_NEWIPC |
				    CLONE_NEWUTS | CLONE_PIDFD | trap;
	const char *hint;
	int pair[2], pidfd = -1, r;

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		return explain(e, -errno, false, "socketpair: %s", strerror(errno));
	/* Without an exit signal: nobody's wait for children sees init, and no handler of SIGCHLD
	 * runs. */
	sandbox->init = (pid_t)syscall(SYS_clone, flags, NULL, &pidfd, NULL, 0);
	if (sandbox->init == 0) {
		s->control = pair[1];
		lat_init_main(s);
	}
	r = sandbox->init < 0 ? -errno : 0;
	close(pair[1]);
	if (r) {
		hint = userns_hint();
		close(pair[0]);
		return explain(e, r, true, "making namespaces: %s%s", strerror(-r),
			*hint || r != -EPERM ? hint
					     : "; a chroot, a container's seccomp filter, or ids "
					       "that have no mapping forbid it here");
	}
	sandbox->pidfd = pidfd;
	s->control = sandbox->control = pair[0];
	return take_over(s, sandbox, e);
}

int lat_launch(
	const struct lat_launch_spec *spec, struct lat_sandbox *out, struct lat_launch_error *error)
{
	struct lat_sandbox sandbox = { -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
	lat_autofree struct lat_setup *s = calloc(1, sizeof(*s));
	int r;

	*error = (struct lat_launch_error){ 0 };
	if (!s)
		return explain(error, -ENOMEM, false, "out of memory");
	s->spec = spec;
	memset(s->given, 0xff, sizeof(s->given));
	if (spec->network == LAT_NETWORK_PLAIN) {
		r = lat_launch_plain(s, out);
		return r ? explain(error, r, false, "%s", s->failure.text) : 0;
	}
	r = plan(s, error);
	if (!r && spec->network == LAT_NETWORK_HOST) {
		sandbox.diag = lat_sockets_netlink(NETLINK_SOCK_DIAG);
		if (sandbox.diag < 0)
			r = explain(error, sandbox.diag, false, "sock_diag netlink socket: %s",
				strerror(-sandbox.diag));
	}
	if (!r)
		r = start(s, &sandbox, error);
	if (!r && fcntl(sandbox.control, F_SETFL, O_NONBLOCK))
		r = explain(error, -errno, false, "fcntl: %s", strerror(errno));
	for (size_t i = 0; i < LAT_ARRAY_SIZE(s->trap); i++)
		lat_nft_free(&s->trap[i]);
	if (r) {
		lat_sandbox_close(&sandbox);
		return r;
	}
	*out = sandbox;
	return 0;
}

static int tell(struct lat_sandbox *sandbox, uint32_t type, int32_t value)
{
	const struct lat_msg msg = { .type = type, .value = value };

	return lat_msg_send(sandbox->control, &msg, NULL, 0);
}

int lat_launch_probe(struct lat_sandbox *sandbox)
{
	return tell(sandbox, LAT_MSG_PROBE, 0);
}

int lat_launch_go(struct lat_sandbox *sandbox)
{
	return tell(sandbox, LAT_MSG_GO, 0);
}

int lat_launch_signal(struct lat_sandbox *sandbox, int signal)
{
	if (sandbox->plain)
		return syscall(SYS_pidfd_send_signal, sandbox->pidfd, signal, NULL, 0) ? -errno : 0;
	return tell(sandbox, LAT_MSG_SIGNAL, signal);
}

int lat_launch_want_sockets(struct lat_sandbox *sandbox, unsigned count)
{
	return count > LAT_MSG_MAX_FDS ? -EINVAL : tell(sandbox, LAT_MSG_WANT, (int32_t)count);
}

int lat_launch_receive(struct lat_sandbox *sandbox, struct lat_msg *msg, int *fds, size_t *nfds)
{
	return lat_msg_receive(sandbox->control, msg, fds, nfds);
}

int lat_launch_host_ports(
	struct lat_sandbox *sandbox, const struct lat_port_span *ports, size_t count)
{
	struct lat_nft n = { 0 };
	int r = lat_trap_build_ports(&n, sandbox->raw6 >= 0, ports, count);

	if (!r)
		r = lat_nft_send(sandbox->nft, &n);
	lat_nft_free(&n);
	return r;
}

void lat_sandbox_close(struct lat_sandbox *sandbox)
{
	siginfo_t info;

	if (sandbox->init > 0 && sandbox->pidfd >= 0) {
		syscall(SYS_pidfd_send_signal, sandbox->pidfd, SIGKILL, NULL, 0);
		while (waitid(P_PIDFD, (id_t)sandbox->pidfd, &info, WEXITED | __WALL) &&
			errno == EINTR)
			;
	}
	sandbox->init = -1;
	close_all(sandbox);
}
