/* First packets: held by the kernel until the flow is decided; see flow_impl.h. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/mem.h"
#include "launcher/launcher.h"
#include <linux/netfilter.h>

/* Flows that may be undecided or half open at once; more SYNs are dropped, and come again. */
#define PENDING_MAX 16384u
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

/* The mark that shows the program this errno; 0: none does, let its own time-out tell. */
static uint32_t mark_of_errno(int err)
{
	switch (err) {
	case EHOSTUNREACH:
	case EHOSTDOWN:
		return LAT_MARK_HOST_UNREACH;
	case ENETUNREACH:
	case ENETDOWN:
	case EADDRNOTAVAIL:
	case EINVAL:
		return LAT_MARK_NET_UNREACH;
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
	uint32_t mark = mark_of_errno(err);

	all_held(c, mark ? NF_ACCEPT : NF_DROP, mark);
}

/* Never dialled, whatever the policy says: they mean the host itself or several hosts. */
static bool is_dialable(const struct lat_addr *a)
{
	if (lat_addr_is_any(a))
		return false;
	return lat_addr_is4(a) ? a->b[12] < 224 && a->b[12] != 0 : a->b[0] != 0xff;
}

void lat_conn_decided(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;
	const struct lat_verdict *v = &c->info.verdict;

	if (!lat_verdict_passes(v)) {
		f->stats.refused++;
		if (v->action == LAT_ACTION_DROP)
			lat_held_drop(c);
		else
			lat_held_refuse(c, v->err ? v->err : ECONNREFUSED);
		lat_conn_end(c, true);
		return;
	}
	if (!is_dialable(&c->info.flow.remote)) {
		lat_conn_dial_failed(c, ENETUNREACH);
		lat_held_refuse(c, ENETUNREACH);
		lat_conn_end(c, true);
		return;
	}
	lat_tcp_dial(c);
}

/* A packet of a flow that is known. */
static void again(struct lat_conn *c, uint32_t id, const struct lat_packet *p)
{
	struct lat_flows *f = c->flows;

	if (c->state == LAT_CONN_ACCEPTING) {
		lat_queue_verdict(f->queue, id, NF_ACCEPT, LAT_MARK_ACCEPT);
		return;
	}
	/* Another sequence number: the program gave the first attempt up and uses the port again. */
	if (p->tcp_seq != c->tcp_seq && c->held_count == 1) {
		lat_held_drop(c);
		c->held[c->held_count++] = id;
		c->tcp_seq = p->tcp_seq;
		return;
	}
	lat_queue_verdict(f->queue, id, NF_DROP, 0);
}

static void packet(void *ctx, const struct lat_queue_packet *raw)
{
	struct lat_flows *f = ctx;
	struct lat_conn_key key;
	struct lat_packet p;
	struct lat_conn *c;
	int r;

	f->stats.queued++;
	if (lat_packet_parse(raw->data, raw->size, &p) < 0 || p.flow.proto != IPPROTO_TCP) {
		f->stats.bad_packets++;
		lat_queue_verdict(f->queue, raw->id, NF_DROP, 0);
		return;
	}
	key = (struct lat_conn_key){ p.flow.local, p.flow.remote, p.flow.sport, p.flow.dport, p.flow.proto, { 0 } };
	c = lat_conn_find(f, &key);
	if (c) {
		again(c, raw->id, &p);
		return;
	}
	if (f->stats.pending >= PENDING_MAX || !(c = lat_conn_new(f, &key, &p.flow))) {
		f->stats.table_full++;
		lat_queue_verdict(f->queue, raw->id, NF_DROP, 0);
		return;
	}
	c->held[c->held_count++] = raw->id;
	c->tcp_seq = p.tcp_seq;
	lat_conn_state(c, LAT_CONN_ASKED, UINT64_MAX);
	c->judged = true;
	r = f->hooks.judge(f->hooks.ctx, c->info.id, &c->info.flow, &c->info.verdict, &c->info.user);
	if (r == 0)
		lat_conn_decided(c);
}

void lat_held_ready(struct lat_poll_item *item, uint32_t events)
{
	struct lat_flows *f = lat_container_of(item, struct lat_flows, queue_item);

	f->now_ns = lat_now_ns();
	for (int i = 0; i < ROUNDS; i++)
		if (lat_queue_receive(f->queue, packet, f, &f->stats.bad_packets) < LAT_QUEUE_BATCH)
			break;
}
