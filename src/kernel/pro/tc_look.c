/* What the tc enforcer's maps and programs say: counters, flows, verdicts by test run. */
#include "kernel/pro/tc_parts.h"
#include "base/mem.h"
#include <fcntl.h>
#include <linux/if_ether.h>
#include <string.h>

/* ---- counters ---- */

static int read_stats(struct lat_tc *tc, uint64_t out[LAT_TC_STAT_COUNT])
{
	int cpus = libbpf_num_possible_cpus();
	lat_autofree uint64_t *values = cpus > 0 ? calloc((size_t)cpus, sizeof(*values)) : NULL;

	if (!values)
		return -ENOMEM;
	for (uint32_t i = 0; i < LAT_TC_STAT_COUNT; i++) {
		out[i] = 0;
		if (bpf_map_lookup_elem(tc->maps[TC_STATS], &i, values) < 0)
			return -errno;
		for (int c = 0; c < cpus; c++)
			out[i] += values[c];
	}
	return 0;
}

/* The data of the generation in force, if there is one that we can see. */
static const struct tc_slot *slot_in_force(struct lat_tc *tc)
{
	uint64_t word;

	if (lat_tc_live_get(tc, &word) < 0 || LAT_TC_LIVE_SLOT(word) > LAT_TC_SLOTS)
		return NULL;
	return tc->slots[LAT_TC_LIVE_SLOT(word)].mapped ? &tc->slots[LAT_TC_LIVE_SLOT(word)] : NULL;
}

static struct lat_tc_meta meta_of(const struct tc_slot *slot)
{
	struct lat_tc_meta meta = { 0 };

	if (slot)
		memcpy(&meta, slot->mapped, sizeof(meta));
	return meta;
}

/* Row 0 of the data in force. */
static struct lat_tc_meta meta_in_force(struct lat_tc *tc)
{
	struct lat_tc_meta meta;

	pthread_mutex_lock(&tc->mutex);
	meta = meta_of(slot_in_force(tc));
	pthread_mutex_unlock(&tc->mutex);
	return meta;
}

int lat_tc_status(struct lat_tc *tc, struct lat_tc_status *out)
{
	struct lat_tc_meta meta = meta_in_force(tc);
	struct lat_tc_status status = {
		.ifindex = tc->ifindex, .generation = meta.generation, .rule_count = meta.rule_count, .rows = meta.rows,
		.tcx = tc->config.tcx, .adopted = tc->adopted, .ether = tc->ether,
	};
	uint64_t word;
	int r = lat_tc_live_get(tc, &word);

	if (r == 0)
		r = read_stats(tc, status.stats);
	if (r < 0)
		return r;
	status.stamp = LAT_TC_LIVE_STAMP(word);
	memcpy(status.device, tc->device, sizeof(status.device));
	memcpy(status.path, tc->path, sizeof(status.path));
	*out = status;
	return 0;
}

static int add_counters(const struct tc_slot *slot, struct lat_tc_count *counts, size_t max)
{
	struct lat_tc_meta meta = meta_of(slot);

	if (!slot)
		return -ENOENT;
	for (size_t rule = 0; rule <= meta.rule_count && rule < max; rule++) {
		uint64_t row = meta.counts_at + rule * meta.stripes;

		if (row + meta.stripes > slot->rows)
			return -EPROTO;
		for (uint32_t s = 0; s < meta.stripes; s++) {
			const volatile struct lat_tc_count *c =
				(const volatile struct lat_tc_count *)(slot->mapped + (row + s) * LAT_TC_ROW);

			counts[rule].packets += c->packets;
			counts[rule].bytes += c->bytes;
		}
	}
	return 0;
}

int lat_tc_counters(struct lat_tc *tc, struct lat_tc_count *counts, size_t max)
{
	int r;

	pthread_mutex_lock(&tc->mutex);
	r = add_counters(slot_in_force(tc), counts, max);
	pthread_mutex_unlock(&tc->mutex);
	return r;
}

/* ---- flows ---- */

int lat_tc_flows(struct lat_tc *tc, struct lat_tc_key *keys, struct lat_tc_flow *flows, size_t max)
{
	struct lat_tc_key next, *from = NULL;
	size_t n = 0;

	/* A key that goes away under us begins the walk anew: the number of steps is bounded. */
	for (size_t steps = 0; n < max && steps < 4 * max + 64; steps++) {
		if (bpf_map_get_next_key(tc->maps[TC_FLOWS], from, &next) < 0)
			break;
		keys[n] = next;
		if (bpf_map_lookup_elem(tc->maps[TC_FLOWS], &next, &flows[n]) == 0) {
			from = &keys[n];
			n++;
		}
	}
	return (int)n;
}

static bool passes(uint8_t action)
{
	return action == 1 || action == 4; /* allow, audit: enum lat_action */
}

static void question_of(const struct lat_tc_key *key, const struct lat_tc_flow *flow, struct lat_tc_question *out)
{
	*out = (struct lat_tc_question){ .sport = flow->sport, .dport = flow->dport, .proto = key->proto, .dir = flow->dir };
	memcpy(out->local.b, key->local, 16);
	memcpy(out->remote.b, key->remote, 16);
}

/* 1 if the flow was cut. */
static int cut_one(struct lat_tc *tc, const struct lat_tc_key *key, struct lat_tc_flow *flow, uint32_t stamp)
{
	struct lat_tc_question question;
	struct lat_tc_answer answer;
	int r;

	if (!passes(flow->action) || (flow->state & LAT_TC_INSIDE))
		return 0;
	question_of(key, flow, &question);
	r = lat_tc_ask(tc, &question, &answer);
	if (r < 0 || answer.passes || answer.action == 3) /* ask: what was answered stays */
		return r < 0 ? r : 0;
	flow->action = answer.action;
	flow->rule = answer.rule;
	flow->generation = answer.generation;
	flow->count_row = 0;
	flow->stamp = stamp;
	if (bpf_map_update_elem(tc->maps[TC_FLOWS], key, flow, BPF_EXIST) < 0)
		return 0;
	lat_tc_destroy(key);
	return 1;
}

#define MOST_FLOWS (1u << 20)

int lat_tc_cut(struct lat_tc *tc)
{
	struct lat_tc_meta meta = meta_in_force(tc);
	struct bpf_map_info info = { 0 };
	uint32_t size = sizeof(info);
	lat_autofree struct lat_tc_key *keys = NULL;
	lat_autofree struct lat_tc_flow *flows = NULL;
	uint64_t word;
	int n, cut = 0, r = lat_tc_live_get(tc, &word);

	if (r < 0 || meta.keep)
		return r < 0 ? r : 0;
	if (bpf_obj_get_info_by_fd(tc->maps[TC_FLOWS], &info, &size) < 0)
		return -errno;
	size = info.max_entries < MOST_FLOWS ? info.max_entries : MOST_FLOWS;
	keys = malloc(size * sizeof(*keys));
	flows = malloc(size * sizeof(*flows));
	if (!keys || !flows)
		return -ENOMEM;
	n = lat_tc_flows(tc, keys, flows, size);
	for (int i = 0; i < n; i++) {
		r = cut_one(tc, &keys[i], &flows[i], LAT_TC_LIVE_STAMP(word));
		if (r < 0)
			return r;
		cut += r;
	}
	return cut;
}

/* ---- test runs ---- */

/* The packet that would begin the flow, with an Ethernet header. Its size. */
static size_t make_packet(const struct lat_tc_question *q, unsigned char packet[128])
{
	const struct lat_addr *src = q->dir == TC_OUT ? &q->local : &q->remote;
	const struct lat_addr *dst = q->dir == TC_OUT ? &q->remote : &q->local;
	bool is4 = lat_addr_is4(&q->remote);
	unsigned char *p = packet + ETH_HLEN;
	uint16_t sport = htons(q->sport), dport = htons(q->dport);

	memset(packet, 0, 128);
	packet[12] = is4 ? 0x08 : 0x86;
	packet[13] = is4 ? 0x00 : 0xdd;
	if (is4) {
		p[0] = 0x45;
		p[3] = 40; /* length */
		p[8] = 64;
		p[9] = q->proto;
		memcpy(p + 12, src->b + 12, 4);
		memcpy(p + 16, dst->b + 12, 4);
		p += 20;
	} else {
		p[0] = 0x60;
		p[5] = 20;
		p[6] = q->proto;
		p[7] = 64;
		memcpy(p + 8, src->b, 16);
		memcpy(p + 24, dst->b, 16);
		p += 40;
	}
	if (q->proto == IPPROTO_TCP || q->proto == IPPROTO_UDP) {
		memcpy(p, &sport, 2);
		memcpy(p + 2, &dport, 2);
		p[5] = q->proto == IPPROTO_UDP ? 20 : 0;
		p[12] = 5 << 4;
		p[13] = 2; /* SYN */
	} else if (q->proto == IPPROTO_ICMP && is4) {
		p[0] = 8;
	} else if (q->proto == IPPROTO_ICMPV6 && !is4) {
		p[0] = 128;
	}
	return (size_t)(p + 20 - packet);
}

/* in and out may be NULL. *passed: what the program said; anything odd is a drop. */
static int test_run(struct lat_tc *tc, uint8_t dir, struct bpf_test_run_opts *opts, struct __sk_buff *in,
	struct __sk_buff *out, bool *passed)
{
	if (in) {
		opts->ctx_in = in;
		opts->ctx_size_in = sizeof(*in);
	}
	if (out) {
		opts->ctx_out = out;
		opts->ctx_size_out = sizeof(*out);
	}
	if (bpf_prog_test_run_opts(tc->progs[dir & 1], opts) < 0)
		return -errno;
	*passed = (int)opts->retval == (tc->group.fd >= 0 ? 1 : -1);
	return 0;
}

int lat_tc_ask(struct lat_tc *tc, const struct lat_tc_question *question, struct lat_tc_answer *out)
{
	struct __sk_buff in = { .mark = tc->ask_mark }, answer = { 0 };
	unsigned char packet[128];
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = (uint32_t)make_packet(question, packet));
	bool passed = false;
	int r;

	in.cb[LAT_TC_CB_ASK] = tc->ask_word;
	r = test_run(tc, question->dir, &opts, &in, &answer, &passed);
	if (r < 0)
		return r;
	*out = (struct lat_tc_answer){
		.rule = answer.cb[LAT_TC_CB_RULE], .action = (uint8_t)answer.cb[LAT_TC_CB_ACTION],
		.generation = answer.cb[LAT_TC_CB_GENERATION], .why = (uint8_t)answer.cb[LAT_TC_CB_WHY], .passes = passed,
	};
	return 0;
}

int lat_tc_run(struct lat_tc *tc, uint8_t dir, const void *packet, size_t size)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = (uint32_t)size);
	bool passed = false;
	int r = test_run(tc, dir, &opts, NULL, NULL, &passed);

	return r < 0 ? r : passed;
}

int lat_tc_time(struct lat_tc *tc, uint8_t dir, bool asked, const void *packet, size_t size, uint32_t repeat, uint32_t *ns)
{
	struct __sk_buff in = { .mark = asked ? tc->ask_mark : 0 };
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = packet, .data_size_in = (uint32_t)size, .repeat = (int)repeat);
	bool passed = false;
	int r;

	in.cb[LAT_TC_CB_ASK] = asked ? tc->ask_word : 0;
	r = test_run(tc, dir, &opts, &in, NULL, &passed);
	if (r == 0)
		*ns = opts.duration;
	return r;
}

/* ---- the rest ---- */

int lat_tc_events(struct lat_tc *tc)
{
	int fd = fcntl(tc->maps[TC_EVENTS], F_DUPFD_CLOEXEC, 3);

	return fd < 0 ? -errno : fd;
}

const char *lat_tc_stat_name(enum lat_tc_stat stat)
{
	static const char *const names[LAT_TC_STAT_COUNT] = {
		[LAT_TC_STAT_PASSED] = "passed", [LAT_TC_STAT_DENIED] = "denied", [LAT_TC_STAT_TRUNCATED] = "truncated",
		[LAT_TC_STAT_ODD] = "odd", [LAT_TC_STAT_FRAGMENT] = "fragment", [LAT_TC_STAT_STATE] = "state",
		[LAT_TC_STAT_NO_POLICY] = "no_policy", [LAT_TC_STAT_NEIGHBOUR] = "neighbour",
		[LAT_TC_STAT_RELATED] = "related", [LAT_TC_STAT_FLOWS] = "flows", [LAT_TC_STAT_EVENTS] = "events",
		[LAT_TC_STAT_HELD] = "events_held", [LAT_TC_STAT_FULL] = "events_lost", [LAT_TC_STAT_RATE] = "rate",
		[LAT_TC_STAT_DEVICE] = "device", [LAT_TC_STAT_INSIDE] = "inside", [LAT_TC_STAT_ANSWERED] = "answered",
		[LAT_TC_STAT_CONNECT_ALLOWED] = "connect_allowed", [LAT_TC_STAT_CONNECT_DENIED] = "connect_denied",
		[LAT_TC_STAT_SOCKET_DENIED] = "socket_denied", [LAT_TC_STAT_UNIX_DENIED] = "unix_denied",
	};

	return (unsigned)stat < LAT_TC_STAT_COUNT ? names[stat] : "unknown";
}
