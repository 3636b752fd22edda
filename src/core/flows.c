/* The registry of flows; see flows.h and flow_impl.h. */
#include "core/flow_impl.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/random.h>
#include <sys/resource.h>

/* Slots come in chunks, so that an idle sandbox is small. */
#define CHUNK 64
/* Id of a flow: a running number above, the slot below. */
#define SLOT_BITS 20
#define SLOT_MASK ((1u << SLOT_BITS) - 1)
#define FLOWS_CAP 65536u
/* A datagram flow may be given up for another one after this. */
#define QUIET_NS (5 * LAT_NS_PER_SEC)
/* Descriptors that are not for flows. */
#define FDS_KEPT 128
/* Packets that the kernel holds for us at most; more are dropped, and come again. */
#define QUEUE_LENGTH 8192

static uint64_t mix(uint64_t a, uint64_t b)
{
	unsigned __int128 m = (unsigned __int128)a * b;

	return (uint64_t)m ^ (uint64_t)(m >> 64);
}

/* Keyed: the program chooses the tuples, and must not be able to choose the bucket. */
uint64_t lat_conn_hash(const struct lat_flows *f, const struct lat_conn_key *key)
{
	uint64_t w[5];

	_Static_assert(sizeof(*key) == sizeof(w), "the key is hashed whole");
	memcpy(w, key, sizeof(w));
	return mix(mix(w[0] ^ f->seed[0], w[1] ^ f->seed[1]) ^ w[4], mix(w[2] ^ f->seed[1], w[3] ^ f->seed[0]));
}

struct lat_conn *lat_conn_find(const struct lat_flows *f, const struct lat_conn_key *key)
{
	struct lat_conn *c = f->buckets[lat_conn_hash(f, key) & f->bucket_mask];

	while (c && memcmp(&c->key, key, sizeof(*key)) != 0)
		c = c->hash_next;
	return c;
}

void lat_conn_unhash(struct lat_conn *c)
{
	struct lat_flows *f = c->flows;
	struct lat_conn **at = &f->buckets[lat_conn_hash(f, &c->key) & f->bucket_mask];

	if (!c->hashed)
		return;
	while (*at != c)
		at = &(*at)->hash_next;
	*at = c->hash_next;
	c->hashed = false;
}

void lat_conn_rekey(struct lat_conn *c, const struct lat_conn_key *key)
{
	struct lat_flows *f = c->flows;
	struct lat_conn *other = lat_conn_find(f, key), **bucket;

	if (other)
		lat_conn_end(other, true);
	lat_conn_unhash(c);
	c->key = *key;
	bucket = &f->buckets[lat_conn_hash(f, key) & f->bucket_mask];
	c->hash_next = *bucket;
	*bucket = c;
	c->hashed = true;
}

static bool grow(struct lat_flows *f)
{
	unsigned left = f->max_flows - f->slots, count = left < CHUNK ? left : CHUNK;
	struct lat_conn *chunk = count ? calloc(count, sizeof(*chunk)) : NULL;

	if (!chunk)
		return false;
	f->chunks[f->slots / CHUNK] = chunk;
	for (unsigned i = count; i-- > 0;) {
		chunk[i].info.id = f->slots + i;
		chunk[i].hash_next = f->free;
		f->free = &chunk[i];
	}
	f->slots += count;
	return true;
}

/* The table is full: the datagram flow that was quiet longest makes room, if it was quiet for a while. */
static bool make_room(struct lat_flows *f)
{
	struct lat_conn *quiet = NULL;

	for (struct lat_conn *c = f->live; c; c = c->next)
		if (c->key.proto != IPPROTO_TCP && c->state == LAT_CONN_RELAYING &&
		    (!quiet || c->active_ns < quiet->active_ns))
			quiet = c;
	if (!quiet || quiet->active_ns + QUIET_NS > f->now_ns)
		return false;
	lat_conn_end(quiet, false);
	return true;
}

struct lat_conn *lat_conn_new(struct lat_flows *f, const struct lat_conn_key *key, const struct lat_flow *flow)
{
	struct lat_conn **bucket = &f->buckets[lat_conn_hash(f, key) & f->bucket_mask], *c;
	uint64_t slot;

	if (!f->free && !grow(f) && !make_room(f))
		return NULL;
	c = f->free;
	if (!c)
		return NULL;
	f->free = c->hash_next;
	slot = c->info.id & SLOT_MASK;
	*c = (struct lat_conn){
		.info = { .id = ++f->next_id << SLOT_BITS | slot, .flow = *flow, .started_ns = f->now_ns },
		.key = *key,
		.flows = f,
		.hash_next = *bucket,
		.next = f->live,
		.hashed = true,
	};
	*bucket = c;
	if (f->live)
		f->live->prev = c;
	f->live = c;
	switch (key->proto) {
	case IPPROTO_TCP:
		c->relay.side[0].fd = c->relay.side[1].fd = -1;
		break;
	case IPPROTO_UDP:
		c->udp.in.fd = c->udp.out.fd = -1;
		break;
	default:
		c->icmp.out.fd = -1;
	}
	return c;
}

static bool is_pending(unsigned state)
{
	return state != LAT_CONN_FREE && state != LAT_CONN_RELAYING;
}

static uint32_t *live_counter(struct lat_flows *f, uint8_t proto)
{
	return proto == IPPROTO_TCP ? &f->stats.live_tcp : proto == IPPROTO_UDP ? &f->stats.live_udp : &f->stats.live_icmp;
}

void lat_conn_state(struct lat_conn *c, enum lat_conn_state state, uint64_t deadline_ns)
{
	struct lat_flows *f = c->flows;

	f->stats.pending += (uint32_t)is_pending(state) - (uint32_t)is_pending(c->state);
	if ((state == LAT_CONN_RELAYING) != (c->state == LAT_CONN_RELAYING))
		*live_counter(f, c->key.proto) += state == LAT_CONN_RELAYING ? 1u : -1u;
	c->state = (uint8_t)state;
	c->deadline_ns = deadline_ns;
}

static void conn_close(struct lat_conn *c, bool reset)
{
	switch (c->key.proto) {
	case IPPROTO_TCP:
		lat_tcp_close(c, reset);
		break;
	case IPPROTO_UDP:
		lat_udp_close(c);
		break;
	default:
		lat_icmp_close(c);
	}
}

void lat_conn_touch(struct lat_conn *c, uint64_t idle_ns)
{
	c->active_ns = c->flows->now_ns;
	c->deadline_ns = c->active_ns + idle_ns;
}

void lat_conn_end(struct lat_conn *c, bool reset)
{
	struct lat_flows *f = c->flows;

	lat_held_drop(c);
	conn_close(c, reset);
	lat_conn_unhash(c);
	lat_conn_state(c, LAT_CONN_FREE, 0);
	if (c->next)
		c->next->prev = c->prev;
	if (c->prev)
		c->prev->next = c->next;
	else
		f->live = c->next;
	if (c->judged && f->hooks.closed)
		f->hooks.closed(f->hooks.ctx, &c->info);
	c->info.id &= SLOT_MASK;
	c->hash_next = f->free;
	f->free = c;
}

void lat_conn_dial_failed(struct lat_conn *c, int err)
{
	struct lat_flows *f = c->flows;

	f->dial_error = err;
	f->stats.dial_errors++;
	if (err == EMFILE || err == ENFILE || err == ENOMEM || err == ENOBUFS)
		f->stats.fd_full++;
	if (f->hooks.dial_failed)
		f->hooks.dial_failed(f->hooks.ctx, &c->info, err);
	lat_held_refuse(c, err);
	if (c->key.proto != IPPROTO_TCP)
		lat_denials_add(f, &c->key, &(struct lat_verdict){ .action = LAT_ACTION_DENY, .err = (uint16_t)err });
	lat_conn_end(c, true);
}

static struct lat_conn *by_id(struct lat_flows *f, uint64_t id)
{
	uint64_t slot = id & SLOT_MASK;
	struct lat_conn *c = slot < f->slots ? &f->chunks[slot / CHUNK][slot % CHUNK] : NULL;

	return c && c->info.id == id && c->state != LAT_CONN_FREE ? c : NULL;
}

void lat_flows_answer(struct lat_flows *f, uint64_t id, const struct lat_verdict *verdict)
{
	struct lat_conn *c = by_id(f, id);

	if (!c || c->state != LAT_CONN_ASKED)
		return;
	f->now_ns = lat_now_ns();
	c->info.verdict = *verdict;
	lat_conn_decided(c);
}

int64_t lat_flows_dial(struct lat_flows *f, const struct lat_flow *flow, const struct lat_verdict *verdict, void *user,
	bool *ready)
{
	struct lat_conn_key key = { .remote = flow->remote, .dport = flow->dport, .proto = IPPROTO_TCP };
	struct lat_conn *c;
	uint64_t id;

	f->now_ns = lat_now_ns();
	c = f->stats.pending < LAT_PENDING_MAX ? lat_conn_new(f, &key, flow) : NULL;
	if (!c)
		return 0;
	lat_conn_unhash(c); /* no packet finds it yet */
	id = c->info.id;
	c->info.verdict = *verdict;
	c->info.user = user;
	c->judged = c->unbound = true;
	lat_conn_state(c, LAT_CONN_ASKED, f->now_ns + LAT_SYN_NS);
	lat_conn_decided(c);
	if (c->info.id != id)
		return -lat_flow_errno(flow, f->dial_error);
	*ready = c->state == LAT_CONN_ACCEPTING;
	return (int64_t)id;
}

void lat_flows_connected(struct lat_flows *f, uint64_t id, const struct lat_addr *local, uint16_t sport)
{
	struct lat_conn *c = by_id(f, id);
	struct lat_conn_key key;

	if (!c)
		return;
	if (!local) {
		lat_conn_end(c, true);
		return;
	}
	key = c->key;
	key.local = c->info.flow.local = *local;
	key.sport = c->info.flow.sport = sport;
	c->unbound = false;
	lat_conn_rekey(c, &key);
	if (c->state == LAT_CONN_ACCEPTING)
		lat_tcp_accept(f);
}

void lat_flows_tick(struct lat_flows *f, uint64_t now_ns)
{
	struct lat_conn *next;

	f->now_ns = now_ns;
	if (f->reserve < 0) /* somebody else was faster when it was given back */
		f->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	lat_udp_tick(f);
	for (struct lat_conn *c = f->live; c; c = next) {
		next = c->next;
		if (c->deadline_ns <= now_ns)
			lat_conn_end(c, true);
		else if (c->key.proto == IPPROTO_TCP)
			lat_tcp_tick(c);
	}
}

size_t lat_flows_sweep(struct lat_flows *f, bool (*keep)(void *ctx, struct lat_flow_info *info), void *ctx)
{
	struct lat_conn *next;
	size_t cut = 0;

	f->now_ns = lat_now_ns();
	lat_denials_clear(f->denials);
	for (struct lat_conn *c = f->live; c; c = next) {
		next = c->next;
		/* What is asked has no verdict yet that could have changed. */
		if (c->state == LAT_CONN_ASKED || keep(ctx, &c->info))
			continue;
		lat_held_refuse(c, ECONNREFUSED);
		lat_conn_end(c, true);
		cut++;
	}
	return cut;
}

void lat_flows_get_stats(const struct lat_flows *f, struct lat_flows_stats *out)
{
	*out = f->stats;
}

static unsigned flows_limit(unsigned wanted)
{
	struct rlimit limit;
	unsigned most = FLOWS_CAP;

	/* Two descriptors a flow. */
	if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < 2 * (rlim_t)FLOWS_CAP + FDS_KEPT)
		most = limit.rlim_cur > 2ul * FDS_KEPT ? (unsigned)(limit.rlim_cur - FDS_KEPT) / 2 : FDS_KEPT / 2;
	return wanted && wanted < most ? wanted : most;
}

static int tables_new(struct lat_flows *f, unsigned wanted)
{
	uint32_t buckets = 256;

	f->max_flows = flows_limit(wanted);
	while (buckets < f->max_flows)
		buckets *= 2;
	f->bucket_mask = buckets - 1;
	f->buckets = calloc(buckets, sizeof(struct lat_conn *));
	f->chunks = calloc(f->max_flows / CHUNK + 1, sizeof(struct lat_conn *));
	if (!f->buckets || !f->chunks)
		return -ENOMEM;
	return getrandom(f->seed, sizeof(f->seed), 0) == sizeof(f->seed) ? 0 : -EIO;
}

static int start(struct lat_flows *f, const struct lat_flows_options *o)
{
	int r;

	r = tables_new(f, o->max_flows);
	if (r < 0)
		return r;
	f->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
	if (f->reserve < 0)
		return -errno;
	r = lat_denials_new(&f->denials);
	if (r == 0)
		r = lat_udp_new(&f->udp);
	if (r == 0)
		r = lat_relays_new(f->poller, &f->relays);
	if (r < 0)
		return r;
	r = lat_queue_open(o->queue, 0, QUEUE_LENGTH, &f->queue);
	if (r < 0)
		return r;
	r = lat_tcp_listener_open(f, o->listener);
	if (r < 0)
		return r;
	f->queue_item = (struct lat_poll_item){ .fd = o->queue, .ready = lat_held_ready };
	return lat_poller_add(f->poller, &f->queue_item, EPOLLIN);
}

int lat_flows_new(const struct lat_flows_options *o, struct lat_flows **out)
{
	struct lat_flows *f = calloc(1, sizeof(*f));
	int r;

	if (!f)
		return -ENOMEM;
	f->poller = o->poller;
	f->hooks = *o->hooks;
	f->raw4 = o->raw4;
	f->raw6 = o->raw6;
	f->reserve = f->queue_item.fd = f->listener_item.fd = -1;
	f->now_ns = lat_now_ns();
	f->udp_idle_ns = (o->udp_idle_s ? o->udp_idle_s : 120) * LAT_NS_PER_SEC;
	r = start(f, o);
	if (r < 0) {
		lat_flows_free(f);
		return r;
	}
	*out = f;
	return 0;
}

void lat_flows_free(struct lat_flows *f)
{
	if (!f)
		return;
	while (f->live)
		lat_conn_end(f->live, true);
	lat_poller_del(f->poller, &f->queue_item);
	lat_poller_del(f->poller, &f->listener_item);
	lat_queue_free(f->queue);
	lat_relays_free(f->relays);
	lat_udp_free(f->udp);
	free(f->denials);
	lat_close(&f->reserve);
	for (unsigned i = 0; f->chunks && i < (f->slots + CHUNK - 1) / CHUNK; i++)
		free(f->chunks[i]);
	free(f->chunks);
	free(f->buckets);
	free(f);
}
