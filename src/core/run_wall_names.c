/* Names in kernel mode: DNS on sockets of the supervisor's own on loopback, to which the programs lead what the command sends to
 * 127.0.0.53; and the addresses that were answered, in the maps before the answer leaves. See run_wall.h. */
#include "core/run_wall.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/diag.h"
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define TRIES 32

/* A UDP socket and, on the same port, a TCP socket. */
static int open_pair(struct lat_wall *w)
{
	struct sockaddr_in at = { .sin_family = AF_INET, .sin_addr = { htonl(INADDR_LOOPBACK) } };
	lat_autoclose int udp = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	lat_autoclose int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	socklen_t len = sizeof(at);

	if (udp < 0 || tcp < 0 || bind(udp, (struct sockaddr *)&at, sizeof(at)) < 0 ||
		getsockname(udp, (struct sockaddr *)&at, &len) < 0 || bind(tcp, (struct sockaddr *)&at, sizeof(at)) < 0 ||
		listen(tcp, 64) < 0)
		return -errno;
	w->dns_port = ntohs(at.sin_port);
	w->dns_udp = lat_take_fd(&udp);
	w->dns_tcp = lat_take_fd(&tcp);
	return 0;
}

int lat_wall_dns_open(struct lat_wall *w, char say[LAT_RUN_SAY])
{
	int r = -EADDRINUSE;

	for (int i = 0; i < TRIES && r == -EADDRINUSE; i++)
		r = open_pair(w);
	if (r < 0)
		snprintf(say, LAT_RUN_SAY, "no sockets for DNS on 127.0.0.1: %s (is lo up?)", strerror(-r));
	return r;
}

static int by_address(const void *a, const void *b)
{
	const struct lat_wall_name *x = a, *y = b;
	int r = memcmp(&x->addr, &y->addr, sizeof(x->addr));

	return r ? r : strcmp(x->name, y->name);
}

int lat_wall_pins(struct lat_wall *w, struct lat_filter_pin **pins, const char ***names, size_t *count)
{
	struct lat_filter_pin *list = calloc(w->name_count + 1, sizeof(*list));
	const char **texts = calloc(w->name_count + 1, sizeof(*texts));
	size_t n = 0;

	if (!list || !texts) {
		free(list);
		free(texts);
		return -ENOMEM;
	}
	qsort(w->names, w->name_count, sizeof(*w->names), by_address);
	for (size_t i = 0; i < w->name_count; i++) {
		texts[i] = w->names[i].name;
		if (n && lat_addr_equal(&list[n - 1].addr, &w->names[i].addr))
			list[n - 1].name_count++;
		else
			list[n++] = (struct lat_filter_pin){ .addr = w->names[i].addr, .names = &texts[i], .name_count = 1 };
	}
	*pins = list;
	*names = texts;
	*count = n;
	return 0;
}

int lat_wall_names_push(struct lat_wall *w)
{
	lat_autofree struct lat_filter_pin *pins = NULL;
	lat_autofree const char **names = NULL;
	size_t count;
	int r = lat_wall_pins(w, &pins, &names, &count);

	if (r == 0)
		r = w->agent ? lat_wall_agent_pin(w, pins, count) : lat_filter_pin(w->filter, w->policy, pins, count);
	return r;
}

static struct lat_wall_name *find(struct lat_wall *w, const struct lat_addr *addr, const char *name)
{
	for (size_t i = 0; i < w->name_count; i++)
		if (lat_addr_equal(&w->names[i].addr, addr) && strcmp(w->names[i].name, name) == 0)
			return &w->names[i];
	return NULL;
}

/* The one address alone: a list of thousands is not given anew for each answer. */
static int push_one(struct lat_wall *w, const struct lat_addr *addr)
{
	const char *names[LAT_TC_PIN_MOST];
	struct lat_filter_pin pin = { .addr = *addr, .names = names };

	for (size_t i = 0; i < w->name_count; i++) {
		if (!lat_addr_equal(&w->names[i].addr, addr))
			continue;
		if (pin.name_count == LAT_TC_PIN_MOST)
			return lat_wall_names_push(w);
		names[pin.name_count++] = w->names[i].name;
	}
	return w->agent ? lat_wall_names_push(w) : lat_filter_pin_one(w->filter, w->policy, &pin);
}

/* A free place, or that of the one that ends first, whose address the maps are told of. NULL: they were not. */
static struct lat_wall_name *new_name(struct lat_wall *w)
{
	struct lat_wall_name *first = &w->names[0];
	struct lat_addr gone;

	if (w->name_count < LAT_WALL_NAMES)
		return &w->names[w->name_count++];
	for (size_t i = 1; i < w->name_count; i++)
		if (w->names[i].until_ns < first->until_ns)
			first = &w->names[i];
	gone = first->addr;
	*first = w->names[--w->name_count];
	if (push_one(w, &gone) < 0)
		return NULL;
	return &w->names[w->name_count++];
}

/* While a generation is put in force this waits for it: tens of milliseconds, once a reload. */
bool lat_wall_pin(struct lat_run *run, const char *name, const struct lat_addr *addr, uint64_t until_ns)
{
	struct lat_wall *w = run->wall;
	struct lat_wall_name *n;
	bool ok = true;

	pthread_mutex_lock(&w->lock);
	n = find(w, addr, name);
	if (n) {
		n->until_ns = until_ns > n->until_ns ? until_ns : n->until_ns;
	} else {
		n = new_name(w);
		ok = n != NULL;
		if (ok) {
			n->addr = *addr;
			n->until_ns = until_ns;
			snprintf(n->name, sizeof(n->name), "%s", name);
			ok = push_one(w, addr) == 0;
			w->name_count -= !ok; /* it was added at the end */
		}
	}
	pthread_mutex_unlock(&w->lock);
	return ok;
}

void lat_wall_names_tick(struct lat_wall *w, uint64_t now_ns)
{
	size_t kept = 0;

	if (w->apply.running || w->name_count == 0)
		return;
	pthread_mutex_lock(&w->lock);
	for (size_t i = 0; i < w->name_count; i++) {
		if (w->names[i].until_ns <= now_ns)
			continue;
		if (kept != i)
			w->names[kept] = w->names[i];
		kept++;
	}
	if (kept != w->name_count) {
		w->name_count = kept;
		lat_wall_names_push(w);
	}
	pthread_mutex_unlock(&w->lock);
}

bool lat_wall_dns_client(void *ctx, bool tcp, const struct lat_addr *from, uint16_t sport)
{
	struct lat_run *run = ctx;
	struct lat_wall *w = run->wall;
	struct lat_diag_socket s;
	struct lat_addr own;

	lat_addr_parse("127.0.0.1", &own);
	return lat_diag_inet(run->sandbox.diag, tcp ? IPPROTO_TCP : IPPROTO_UDP, from, sport, &own, w->dns_port, &s) == 0 &&
	       s.cgroup == lat_wall_group_id(run);
}

void lat_wall_dns_asker(struct lat_run *run, struct lat_flow *flow, struct lat_identity *who)
{
	struct lat_flow real = *flow;

	lat_addr_parse("127.0.0.1", &real.local);
	lat_addr_parse("127.0.0.1", &real.remote);
	real.dport = run->wall->dns_port;
	lat_connects_identify(run->connects, &real, who);
}
