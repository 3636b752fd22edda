/* Decisions about calls: which flow it is, what the tables say, and word of it to the supervisor. */
#include "shim.h"
#include <netinet/in.h>
#include <sys/uio.h>

#define FAMILY_SMC 43
#define PROTOCOL_MPTCP 262
#define TOLD 64

/* Datagrams that were let go and told: each destination once while it is among the last. A hash; a stale one costs a line. */
static uint64_t told[TOLD];

int lat_shim_copy(void *to, const void *from, size_t size)
{
	struct iovec here = { to, size }, there = { (void *)from, size };
	long n = syscall(SYS_process_vm_readv, (long)lat_shim_pid(), &here, 1UL, &there, 1UL, 0UL);

	if (n == (long)size)
		return 0;
	if (n >= 0 || errno == EFAULT)
		return -EFAULT;
	memcpy(to, from, size); /* the call is not there (an outer filter): as every other library does */
	return 0;
}

static int option(int fd, int name)
{
	int value = -1;
	socklen_t n = sizeof(value);

	return syscall(SYS_getsockopt, fd, SOL_SOCKET, name, &value, &n) < 0 ? -1 : value;
}

/* The protocol that the call will use, 0: not one of IP, -1: one that no rule can name. */
static int protocol(int fd)
{
	int p = option(fd, SO_PROTOCOL);

	if (p == PROTOCOL_MPTCP)
		return IPPROTO_TCP;
	if (p == 0)
		return option(fd, SO_DOMAIN) == FAMILY_SMC ? IPPROTO_TCP : 0;
	return p > UINT8_MAX ? -1 : p < 0 ? 0 : p;
}

/* AF_UNSPEC is AF_INET for sendto. false: no address of IP, or one that the kernel refuses. */
static bool read_address(const struct sockaddr *sa, socklen_t len, bool unspec, struct lat_addr *a, uint16_t *port)
{
	struct sockaddr_in in4;

	if (!unspec || sa->sa_family != AF_UNSPEC || len < sizeof(in4))
		return lat_addr_from_sockaddr(sa, len, a, port) == 0;
	memcpy(&in4, sa, sizeof(in4));
	in4.sin_family = AF_INET;
	return lat_addr_from_sockaddr((struct sockaddr *)&in4, sizeof(in4), a, port) == 0;
}

/* Zero is this host itself. */
static void any_is_loopback(struct lat_addr *a)
{
	if (!lat_addr_is_any(a))
		return;
	if (lat_addr_is4(a))
		a->b[12] = 127;
	a->b[15] = 1;
}

static uint64_t fingerprint(const struct lat_shim_flow *f, uint32_t generation)
{
	uint64_t h = (uint64_t)generation << 32 ^ (uint64_t)f->port << 16 ^ (uint64_t)f->proto << 8 ^ 1, half[2];

	memcpy(half, f->remote.b, 16);
	for (int i = 0; i < 2; i++) {
		h = (h ^ half[i]) * 0x9e3779b97f4a7c15ull;
		h ^= h >> 29;
	}
	return h | 1;
}

static int outcome(uint8_t what, uint16_t err, int usual, enum lat_shim_call call)
{
	if (what == LAT_SHIM_ALLOW)
		return 0;
	if (what == LAT_SHIM_DROP)
		return call == LAT_CALL_SEND ? LAT_SHIM_SILENT : ETIMEDOUT;
	return err ? err : usual;
}

static void message(struct lat_shim_message *m, uint32_t type, const struct lat_shim_flow *flow, bool bind)
{
	memset(m, 0, sizeof(*m));
	m->magic = LAT_SHIM_MAGIC;
	m->abi = LAT_SHIM_ABI;
	m->type = type;
	m->flow = *flow;
	m->bind = bind;
}

/* The supervisor decides, and writes the record itself. */
static int ask(const struct lat_shim_flow *flow, enum lat_shim_call call)
{
	struct lat_shim_message m;
	struct lat_shim_reply reply;

	message(&m, LAT_SHIM_JUDGE, flow, false);
	if (lat_shim_ask(&m, &reply, NULL) < 0)
		return ECONNREFUSED;
	return outcome(reply.what, reply.err, ECONNREFUSED, call);
}

/* The supervisor hears of it, or it does not happen. */
static int tell(const struct lat_shim_flow *flow, const struct lat_shim_answer *a, uint32_t generation, bool bind)
{
	struct lat_shim_message m;

	message(&m, LAT_SHIM_DECIDED, flow, bind);
	m.generation = generation;
	m.rule = a->rule;
	m.action = a->action;
	m.err = a->err;
	return lat_shim_tell(&m);
}

static int decide(const struct lat_shim_flow *flow, enum lat_shim_call call)
{
	struct lat_shim_view view;
	struct lat_shim_answer a;
	uint32_t generation;
	uint64_t mark, *slot;
	int r = lat_shim_acquire(&view);

	if (r == -EAGAIN)
		return ask(flow, call);
	if (r < 0)
		return ECONNREFUSED;
	if (lat_addr_is_loopback(&flow->remote) && lat_shim_own(view.control, flow->proto, flow->port)) {
		lat_shim_release(&view);
		return 0;
	}
	lat_shim_judge(view.image, flow, &a);
	generation = view.image->generation;
	lat_shim_release(&view);
	if (a.what == LAT_SHIM_ASK)
		return ask(flow, call);
	mark = fingerprint(flow, generation);
	slot = &told[mark >> 32 & (TOLD - 1)];
	if (call == LAT_CALL_SEND && a.what == LAT_SHIM_ALLOW && __atomic_load_n(slot, __ATOMIC_RELAXED) == mark)
		return 0;
	if (tell(flow, &a, generation, false) < 0)
		return ECONNREFUSED;
	if (call == LAT_CALL_SEND && a.what == LAT_SHIM_ALLOW)
		__atomic_store_n(slot, mark, __ATOMIC_RELAXED);
	return outcome(a.what, a.err, ECONNREFUSED, call);
}

int lat_shim_check(int fd, const struct sockaddr *to, socklen_t len, enum lat_shim_call call)
{
	struct lat_shim_flow flow = { .dir = 0 };
	int keep = errno, p, r;

	if (!read_address(to, len, call != LAT_CALL_CONNECT, &flow.remote, &flow.port))
		return 0;
	p = protocol(fd);
	if (p == 0 || (p == IPPROTO_TCP && call == LAT_CALL_SEND)) { /* no socket of IP; TCP takes no notice of it */
		errno = keep;
		return 0;
	}
	if (p != IPPROTO_TCP && p != IPPROTO_UDP)
		flow.port = 0;
	any_is_loopback(&flow.remote);
	flow.proto = (uint8_t)p;
	r = p < 0 ? EACCES : decide(&flow, call);
	errno = keep;
	return r;
}

static int decide_bind(const struct lat_shim_flow *flow)
{
	struct lat_shim_view view;
	struct lat_shim_answer a;
	uint32_t generation;
	bool ask_all;

	if (lat_shim_acquire(&view) < 0)
		return EACCES;
	lat_shim_may_come_in(view.image, flow->proto, flow->port, &a);
	generation = view.image->generation;
	ask_all = view.image->ask_all;
	lat_shim_release(&view);
	if (tell(flow, &a, generation, true) < 0)
		return EACCES;
	return ask_all ? 0 : outcome(a.what, a.err, EACCES, LAT_CALL_CONNECT);
}

int lat_shim_check_bind(int fd, const struct sockaddr *at, socklen_t len)
{
	struct lat_shim_flow flow = { .dir = 1 };
	int keep = errno, p, r = 0;

	if (!read_address(at, len, true, &flow.remote, &flow.port) || lat_addr_is_loopback(&flow.remote) || flow.port == 0)
		return 0;
	p = protocol(fd);
	flow.proto = (uint8_t)p;
	if (p < 0)
		r = EACCES;
	else if (p != 0)
		r = decide_bind(&flow);
	errno = keep;
	return r;
}

bool lat_shim_may_stay(int fd)
{
	struct lat_shim_flow flow = { .dir = 1 };
	struct sockaddr_storage peer, own;
	socklen_t len = sizeof(peer), own_len = sizeof(own);
	struct lat_addr local;
	int keep = errno, p, r = 0;
	uint16_t sport;

	memset(&peer, 0, sizeof(peer));
	memset(&own, 0, sizeof(own));
	if (syscall(SYS_getpeername, fd, &peer, &len) == 0 && syscall(SYS_getsockname, fd, &own, &own_len) == 0 &&
		read_address((struct sockaddr *)&peer, len, false, &flow.remote, &sport) &&
		read_address((struct sockaddr *)&own, own_len, false, &local, &flow.port) &&
		!lat_addr_is_loopback(&flow.remote) && (p = protocol(fd)) > 0) {
		flow.proto = (uint8_t)p;
		r = decide(&flow, LAT_CALL_CONNECT);
	}
	errno = keep;
	return r == 0;
}

void lat_shim_bound(int fd)
{
	struct lat_shim_flow flow = { .dir = 1 };
	struct lat_shim_message m;
	struct lat_shim_reply reply;
	struct sockaddr_storage ss;
	socklen_t len = sizeof(ss);
	int keep = errno, p;

	memset(&ss, 0, sizeof(ss));
	if (syscall(SYS_getsockname, fd, &ss, &len) == 0 &&
		read_address((struct sockaddr *)&ss, len, false, &flow.remote, &flow.port) && flow.port &&
		(lat_addr_is_loopback(&flow.remote) || lat_addr_is_any(&flow.remote)) && (p = protocol(fd)) > 0) {
		flow.proto = (uint8_t)p;
		message(&m, LAT_SHIM_BOUND, &flow, true);
		lat_shim_ask(&m, &reply, NULL);
	}
	errno = keep;
}
