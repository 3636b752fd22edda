/* First packets: held by the kernel until the flow is decided; see flow_impl.h. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/mem.h"
#include "launcher/launcher.h"
#include <linux/netfilter.h>

/* How long a datagram waits for an answer at most. */
#define ASK_NS (300 * LAT_NS_PER_SEC)
/* Rounds of the queue before other descriptors get their turn. */
#define ROUNDS 4

static void all_held(struct lat_conn *c, uint32_t verdict, uint32_t mark)
{
	for (unsigned i = 0; i < c->held_count; i++)
		lat_queue_verdict(c->flows->queue, c->held[i], verdict, mark);
	c->held_count = 0;
}

void lat_held_accept(struct lat_conn *c, uint32_t mark)
{
	all_held(c, NF_ACCEPT, mark);
}

void lat_held_drop(struct lat_conn *c)
{
	all_held(c, NF_DROP, 0);
}

void lat_held_repeat(struct lat_conn *c)
{
	all_held(c, NF_REPEAT, 0);
}

int lat_flow_errno(const struct lat_flow *flow, int err)
{
	switch (err) {
	case EHOSTUNREACH:
	case EHOSTDOWN:
		return EHOSTUNREACH;
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
	case EINVAL:
		return ENETUNREACH;
	case EACCES:
	case EPERM:
		return lat_addr_is4(&flow->remote) ? EHOSTUNREACH : EACCES;
	case ETIMEDOUT:
		return ETIMEDOUT;
	default:
		return ECONNREFUSED;
	}
}

/* The mark that shows the program this errno; 0: none does, let its own time-out tell. A UDP socket is not told by
 * default that a host is unreachable, and would wait; that a port is closed it is told. */
static uint32_t mark_of_errno(uint8_t proto, int err)
{
	switch (err) {
	case EHOSTUNREACH:
	case EHOSTDOWN:
		return proto == IPPROTO_UDP ? LAT_MARK_RESET : LAT_MARK_HOST_UNREACH;
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
	case EINVAL:
		return proto == IPPROTO_UDP ? LAT_MARK_RESET : LAT_MARK_NET_UNREACH;
	case EACCES:
	case EPERM:
		return LAT_MARK_PROHIBITED;
	case ETIMEDOUT:
		return 0;
	default:
		return LAT_MARK_RESET;
	}
}

void lat_held_refuse(struct lat_conn *c, int err)
{
	uint32_t mark = mark_of_errno(c->key.proto, err);

	all_held(c, mark ? NF_ACCEPT : NF_DROP, mark);
}

/* Never dialled, whatever the policy says: they mean the host itself or several hosts. */
static bool is_dialable(const struct lat_addr *a)
{
	if (lat_addr_is_any(a))
		return false;
	return lat_addr_is4(a) ? a->b[12] < 224 && a->b[12] != 0 : a->b[0] != 0xff;
}

static bool is_icmp(const struct lat_conn_key *key)
{
	return key->proto == IPPROTO_ICMP || key->proto == IPPROTO_ICMPV6;
}

/* Errno of a refusal: what a closed port says, and for a ping what a firewall says. */
static int refusal_errno(const struct lat_conn_key *key, const struct lat_verdict *v)
{
	return v->err ? v->err : is_icmp(key) ? EACCES : ECONNREFUSED;
}

static void refuse(struct lat_conn *c)
{
	const struct lat_verdict *v = &c->info.verdict;

	if (v->action == LAT_ACTION_DROP)
		lat_held_drop(c);
	else
		lat_held_refuse(c, refusal_errno(&c->key, v));
	if (c->key.proto != IPPROTO_TCP)
		lat_denials_add(c->flows, &c->key, v);
	lat_conn_end(c, true);
}

void lat_conn_decided(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;

	if (!lat_verdict_passes(&c->info.verdict)) {
		f->stats.refused++;
		refuse(c);
		return;
	}
	if (!is_dialable(&c->info.flow.remote)) {
		lat_conn_dial_failed(c, ENETUNREACH);
		return;
	}
	switch (c->key.proto) {
	case IPPROTO_TCP:
		lat_tcp_dial(c);
		break;
	case IPPROTO_UDP:
		lat_udp_open(c);
		break;
	default:
		lat_icmp_open(c);
	}
}

/* A program that still wants to connect sends its SYN again, each time after twice as long. Silence for longer than that
 * means that it gave up, and nobody needs the answer or the dial any more. */
static void syn_seen(struct lat_conn *c)
{
	uint64_t now = c->flows->now_ns;

	c->deadline_ns = now + 2 * (now - c->info.started_ns) + LAT_SYN_NS;
}

static void hold(struct lat_conn *c, uint32_t id)
{
	if (c->held_count < LAT_HOLD_MAX)
		c->held[c->held_count++] = id;
	else
		lat_queue_verdict(c->flows->queue, id, NF_DROP, 0);
}

/* A SYN of a flow that is not relayed yet. */
static void again_tcp(struct lat_conn *c, uint32_t id, const struct lat_packet *p)
{
	struct lat_flows *f = c->flows;

	if (c->state == LAT_CONN_ACCEPTING) {
		lat_queue_verdict(f->queue, id, NF_ACCEPT, LAT_MARK_ACCEPT);
		return;
	}
	syn_seen(c);
	/* Another sequence number: the program gave the first attempt up and uses the port again. */
	if (p->tcp_seq != c->tcp_seq) {
		lat_held_drop(c);
		hold(c, id);
		c->tcp_seq = p->tcp_seq;
		return;
	}
	lat_queue_verdict(f->queue, id, NF_DROP, 0);
}

/* A packet of a flow that is known. */
static void again(struct lat_conn *c, uint32_t id, const struct lat_packet *p)
{
	struct lat_flows *f = c->flows;

	if (c->key.proto == IPPROTO_TCP) {
		again_tcp(c, id, p);
	} else if (c->key.proto == IPPROTO_UDP) {
		if (c->state == LAT_CONN_RELAYING && c->udp.by_raw) {
			lat_queue_verdict(f->queue, id, NF_DROP, 0);
			lat_udp_send(c, p->payload, p->payload_size);
		} else if (c->state == LAT_CONN_RELAYING) /* it was in the queue before the socket was there */
			lat_queue_verdict(f->queue, id, NF_ACCEPT, LAT_MARK_ACCEPT);
		else
			hold(c, id);
	} else {
		lat_queue_verdict(f->queue, id, NF_DROP, 0);
		if (c->state == LAT_CONN_RELAYING)
			lat_icmp_send(c, p->payload, p->payload_size, p->echo_seq);
	}
}

/* The verdict of a moment ago, again. */
static void refuse_again(struct lat_flows *f, const struct lat_conn_key *key, const struct lat_verdict *v, uint32_t id)
{
	uint32_t mark = v->action == LAT_ACTION_DROP ? 0 : mark_of_errno(key->proto, refusal_errno(key, v));

	f->stats.refused++;
	lat_queue_verdict(f->queue, id, mark ? NF_ACCEPT : NF_DROP, mark);
}

static void first(struct lat_flows *f, const struct lat_conn_key *key, uint32_t id, const struct lat_packet *p)
{
	bool undecided = f->stats.pending >= LAT_PENDING_MAX;
	struct lat_conn *c = undecided ? NULL : lat_conn_new(f, key, &p->flow);
	int r;

	if (!c) {
		f->stats.table_full++;
		lat_queue_verdict(f->queue, id, undecided ? NF_DROP : NF_ACCEPT, undecided ? 0 : LAT_MARK_RESET);
		return;
	}
	hold(c, id);
	c->tcp_seq = p->tcp_seq;
	lat_conn_state(c, LAT_CONN_ASKED, f->now_ns + ASK_NS);
	if (key->proto == IPPROTO_TCP)
		syn_seen(c);
	if (is_icmp(key))
		lat_icmp_keep(c, p);
	c->judged = true;
	r = f->hooks.judge(f->hooks.ctx, c->info.id, &c->info.flow, &c->info.verdict, &c->info.user);
	if (r == 0)
		lat_conn_decided(c);
}

static void packet(void *ctx, const struct lat_queue_packet *raw)
{
	struct lat_flows *f = ctx;
	const struct lat_verdict *denied;
	struct lat_conn_key key;
	struct lat_packet p;
	struct lat_conn *c;

	f->stats.queued++;
	if (lat_packet_parse(raw->data, raw->size, &p) < 0) {
		f->stats.bad_packets++;
		lat_queue_verdict(f->queue, raw->id, NF_DROP, 0);
		return;
	}
	key = (struct lat_conn_key){ p.flow.local, p.flow.remote, p.flow.sport, p.flow.dport, p.flow.proto, { 0 } };
	if (is_icmp(&key))
		key.sport = p.echo_id;
	c = lat_conn_find(f, &key);
	if (c)
		again(c, raw->id, &p);
	else if (key.proto != IPPROTO_TCP && (denied = lat_denials_find(f, &key)))
		refuse_again(f, &key, denied, raw->id);
	else
		first(f, &key, raw->id, &p);
}

void lat_flows_poll(struct lat_flows *f)
{
	f->now_ns = lat_now_ns();
	for (int i = 0; i < ROUNDS; i++)
		if (lat_queue_receive(f->queue, packet, f, &f->stats.bad_packets) < LAT_QUEUE_BATCH)
			break;
}

void lat_held_ready(struct lat_poll_item *item, uint32_t events)
{
	lat_flows_poll(lat_container_of(item, struct lat_flows, queue_item));
}
