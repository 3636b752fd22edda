/* ICMP echo: the kernel inside would answer every ping itself, for every address is local there. So each request is taken
 * out of the queue and dropped, sent outside by a ping socket (a raw one for root where ping sockets are not allowed), and
 * the answer is made inside by flow_raw.c. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <netinet/icmp6.h>
#include <netinet/ip_icmp.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>

#define IDLE_NS (30 * LAT_NS_PER_SEC)
/* A request that waits for an answer is kept up to this size; a larger one is lost, and the next one passes. */
#define KEEP_MAX 1500

static bool is4(const struct lat_conn *c)
{
	return c->key.proto == IPPROTO_ICMP;
}

void lat_icmp_keep(struct lat_conn *c, const struct lat_packet *p)
{
	c->icmp.seq = p->echo_seq;
	c->icmp.payload = p->payload_size <= KEEP_MAX ? malloc(p->payload_size + 1) : NULL;
	if (!c->icmp.payload)
		return;
	memcpy(c->icmp.payload, p->payload, p->payload_size);
	c->icmp.payload_size = (uint16_t)p->payload_size;
}

void lat_icmp_send(struct lat_conn *c, const uint8_t *payload, size_t size, uint16_t seq)
{
	uint8_t head[8] = { is4(c) ? ICMP_ECHO : ICMP6_ECHO_REQUEST };
	struct iovec parts[2] = { { head, sizeof(head) }, { (void *)payload, size } };
	struct msghdr message = { .msg_iov = parts, .msg_iovlen = 2 };

	c->icmp.seq = seq;
	head[4] = (uint8_t)(c->icmp.wire_id >> 8);
	head[5] = (uint8_t)c->icmp.wire_id;
	head[6] = (uint8_t)(seq >> 8);
	head[7] = (uint8_t)seq;
	if (c->icmp.raw && is4(c)) {
		uint16_t sum = (uint16_t)~lat_raw_checksum(lat_raw_checksum(0, head, sizeof(head)), payload, size);

		head[2] = (uint8_t)(sum >> 8);
		head[3] = (uint8_t)sum;
	}
	/* The first try may only be told an earlier error. */
	if (sendmsg(c->icmp.out.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
		sendmsg(c->icmp.out.fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
	c->info.bytes_out += size;
	lat_conn_touch(c, IDLE_NS);
}

/* One answer from outside; raw IPv4 sockets give the IP header too. */
static void answer(struct lat_conn *c, const uint8_t *p, size_t size)
{
	if (c->icmp.raw && is4(c)) {
		size_t head = size ? (size_t)(p[0] & 15) * 4 : 0;

		if (head < 20 || head > size)
			return;
		p += head;
		size -= head;
	}
	if (size < 8 || p[0] != (is4(c) ? ICMP_ECHOREPLY : ICMP6_ECHO_REPLY))
		return;
	if (c->icmp.raw && (p[4] << 8 | p[5]) != c->icmp.wire_id)
		return;
	c->info.bytes_in += size - 8;
	lat_conn_touch(c, IDLE_NS);
	lat_raw_echo_reply(c, (uint16_t)(p[6] << 8 | p[7]), p + 8, size - 8);
}

static void outside_ready(struct lat_poll_item *item, uint32_t events)
{
	static uint8_t buf[65536]; /* one thread */
	struct lat_conn *c = lat_container_of(item, struct lat_conn, icmp.out);

	c->flows->now_ns = lat_now_ns();
	if (events & EPOLLERR)
		lat_raw_pass_errors(c, item->fd);
	for (int i = 0; i < 16; i++) {
		ssize_t n = recv(item->fd, buf, sizeof(buf), MSG_DONTWAIT);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n >= 0)
			answer(c, buf, (size_t)n);
	}
	lat_poller_rearm(c->flows->poller, item);
}

static int open_outer(struct lat_conn *c)
{
	const struct lat_flow *flow = &c->info.flow;
	struct sockaddr_storage to;
	socklen_t len = lat_addr_to_sockaddr(&flow->remote, 0, false, &to);
	int type = SOCK_NONBLOCK | SOCK_CLOEXEC, on = 1;
	lat_autoclose int fd = socket(to.ss_family, SOCK_DGRAM | type, flow->proto);

	if (fd < 0 && (errno == EACCES || errno == EPERM)) {
		fd = socket(to.ss_family, SOCK_RAW | type, flow->proto);
		c->icmp.raw = true;
		c->icmp.wire_id = (uint16_t)(c->info.id ^ c->flows->seed[0]);
	}
	if (fd < 0)
		return errno == EAFNOSUPPORT ? -ENETUNREACH : -errno;
	if (is4(c))
		setsockopt(fd, SOL_IP, IP_RECVERR, &on, sizeof(on));
	else
		setsockopt(fd, SOL_IPV6, IPV6_RECVERR, &on, sizeof(on));
	if (connect(fd, (struct sockaddr *)&to, len) < 0)
		return -errno;
	return lat_take_fd(&fd);
}

static void open_failed(struct lat_conn *c, int err)
{
	struct lat_flows *f = c->flows;

	if ((err == EACCES || err == EPERM) && !f->warned_icmp) {
		f->warned_icmp = true;
		lat_warn("ping is refused inside: this user may open neither a ping socket (sysctl "
			 "net.ipv4.ping_group_range) nor a raw one");
	}
	lat_conn_dial_failed(c, err);
}

void lat_icmp_open(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;
	int fd = open_outer(c), r;

	if (fd < 0) {
		open_failed(c, -fd);
		return;
	}
	c->icmp.out = (struct lat_poll_item){ .fd = fd, .ready = outside_ready };
	r = lat_poller_add(f->poller, &c->icmp.out, EPOLLIN | EPOLLET);
	if (r < 0) {
		open_failed(c, -r);
		return;
	}
	lat_held_drop(c);
	lat_conn_state(c, LAT_CONN_RELAYING, 0);
	lat_conn_touch(c, IDLE_NS);
	f->stats.dialled++;
	f->stats.relayed++;
	if (c->icmp.payload)
		lat_icmp_send(c, c->icmp.payload, c->icmp.payload_size, c->icmp.seq);
	free(c->icmp.payload);
	c->icmp.payload = NULL;
}

void lat_icmp_close(struct lat_conn *c)
{
	free(c->icmp.payload);
	c->icmp.payload = NULL;
	if (c->icmp.out.fd < 0)
		return;
	lat_poller_forget(c->flows->poller, &c->icmp.out);
	lat_close(&c->icmp.out.fd);
}
