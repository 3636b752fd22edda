/* A packet of NFLOG as an event; see pump.h. The prefix says what the rule did, the packet's bytes whom it was about. */
#include "core/pump.h"
#include "base/clock.h"
#include "core/flow_packet.h"
#include "kernel/nflog.h"
#include <errno.h>
#include <string.h>

#define PREFIX "lattice:"

struct text {
	const char *at, *end;
};

/* A decimal number of 32 bits that ends at a colon. */
static bool take_number(struct text *t, uint32_t *out)
{
	uint64_t value = 0;
	const char *from = t->at;

	for (; t->at < t->end && *t->at >= '0' && *t->at <= '9' && value <= UINT32_MAX; t->at++)
		value = value * 10 + (uint64_t)(*t->at - '0');
	if (t->at == from || value > UINT32_MAX || t->at == t->end || *t->at != ':')
		return false;
	t->at++;
	*out = (uint32_t)value;
	return true;
}

static bool take_word(struct text *t, const char *word, char end)
{
	size_t len = strlen(word), left = (size_t)(t->end - t->at);

	if (left < len || memcmp(t->at, word, len) != 0 || (left > len ? t->at[len] != end : end == ':'))
		return false;
	t->at += len + (left > len);
	return true;
}

static bool take_action(struct text *t, uint8_t *action)
{
	for (unsigned i = 0; i < LAT_ACTION_COUNT; i++)
		if (take_word(t, lat_action_name(i), ':')) {
			*action = (uint8_t)i;
			return true;
		}
	return false;
}

int lat_event_from_nflog(const struct lat_nflog_packet *p, struct lat_event *out)
{
	struct text t = { p->prefix, p->prefix + p->prefix_size };
	struct lat_event e = { .kind = LAT_EVENT_VERDICT, .packets = 1, .time_ns = lat_now_ns() };
	struct lat_flow f;
	bool in;

	if (p->prefix_size < strlen(PREFIX) || memcmp(p->prefix, PREFIX, strlen(PREFIX)) != 0)
		return -EBADMSG;
	t.at += strlen(PREFIX);
	if (!take_number(&t, &e.generation) || !take_number(&t, &e.rule) || !take_action(&t, &e.action))
		return -EBADMSG;
	in = take_word(&t, "in", ' ');
	if (!in && !take_word(&t, "out", ' '))
		return -EBADMSG;
	if (!p->data || lat_packet_ends(p->data, p->size, &f, &e.length) < 0)
		return -EBADMSG;
	e.dir = in ? LAT_DIR_IN : LAT_DIR_OUT;
	e.proto = f.proto;
	e.sport = f.sport;
	e.dport = f.dport;
	e.ifindex = in ? p->in : p->out;
	memcpy(e.local, in ? f.remote.b : f.local.b, sizeof(e.local));
	memcpy(e.remote, in ? f.local.b : f.remote.b, sizeof(e.remote));
	*out = e;
	return 0;
}
