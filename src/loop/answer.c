/* See answer.h. glibc's ns_parse walks the message with bounds checks; the chain is ours. */
#include "loop/answer.h"
#include <arpa/nameser.h>
#include <errno.h>
#include <string.h>
#include <strings.h>

#define RECORDS_MAX 512 /* answer records looked at; more is no honest answer */

static bool same_question(ns_msg *msg, const char *name, int type)
{
	ns_rr rr;

	return ns_msg_count(*msg, ns_s_qd) == 1 && ns_parserr(msg, ns_s_qd, 0, &rr) == 0 &&
	       ns_rr_class(rr) == ns_c_in && (int)ns_rr_type(rr) == type &&
	       strcasecmp(ns_rr_name(rr), name) == 0;
}

/* The alias record of `name`, if there is one: 1, 0, or -EPROTO. */
static int find_alias(
	ns_msg *msg, int count, const char *name, char target[static NS_MAXDNAME], uint32_t *ttl)
{
	for (int i = 0; i < count; i++) {
		ns_rr rr;

		if (ns_parserr(msg, ns_s_an, i, &rr) < 0)
			return -EPROTO;
		if (ns_rr_type(rr) != ns_t_cname || ns_rr_class(rr) != ns_c_in ||
			strcasecmp(ns_rr_name(rr), name) != 0)
			continue;
		if (ns_name_uncompress(ns_msg_base(*msg), ns_msg_end(*msg), ns_rr_rdata(rr), target,
			    NS_MAXDNAME) < 0)
			return -EPROTO;
		*ttl = ns_rr_ttl(rr);
		return 1;
	}
	return 0;
}

static int add_alias(struct lat_resolved *out, const char *name, const char *target, uint32_t ttl)
{
	size_t n = out->cname_count;

	if (n == LAT_RESOLVE_MAX_CNAMES || strlen(name) >= sizeof(out->cnames[n].alias) ||
		strlen(target) >= sizeof(out->cnames[n].target))
		return -EPROTO;
	for (size_t i = 0; i < n; i++)
		if (strcasecmp(out->cnames[i].alias, target) == 0)
			return -EPROTO;
	if (strcasecmp(name, target) == 0)
		return -EPROTO;
	strcpy(out->cnames[n].alias, name);
	strcpy(out->cnames[n].target, target);
	out->cnames[n].ttl = ttl;
	out->cname_count = n + 1;
	return 0;
}

static bool known(const struct lat_resolved *out, const struct lat_addr *addr)
{
	for (size_t i = 0; i < out->addr_count; i++)
		if (lat_addr_equal(&out->addrs[i].addr, addr))
			return true;
	return false;
}

static int add_addresses(
	ns_msg *msg, int count, const char *name, int family, struct lat_resolved *out)
{
	for (int i = 0; i < count && out->addr_count < LAT_RESOLVE_MAX_ADDRS; i++) {
		struct lat_addr addr;
		ns_rr rr;

		if (ns_parserr(msg, ns_s_an, i, &rr) < 0)
			return -EPROTO;
		if (ns_rr_class(rr) != ns_c_in || strcasecmp(ns_rr_name(rr), name) != 0)
			continue;
		if (family == 4 && ns_rr_type(rr) == ns_t_a && ns_rr_rdlen(rr) == 4)
			lat_addr_from4(&addr, ns_rr_rdata(rr));
		else if (family == 6 && ns_rr_type(rr) == ns_t_aaaa && ns_rr_rdlen(rr) == 16)
			lat_addr_from6(&addr, ns_rr_rdata(rr));
		else
			continue;
		/* A v4-mapped AAAA is an IPv4 address in disguise: not what was asked for. */
		if (lat_addr_is4(&addr) != (family == 4) || known(out, &addr))
			continue;
		out->addrs[out->addr_count].addr = addr;
		out->addrs[out->addr_count++].ttl = ns_rr_ttl(rr) & 0x80000000u ? 0 : ns_rr_ttl(rr);
	}
	return 0;
}

bool lat_answer_echoes(const uint8_t *data, size_t len, const char *asked)
{
	ns_msg msg;
	ns_rr rr;

	return len <= NS_MAXMSG && ns_initparse(data, (int)len, &msg) == 0 &&
	       ns_msg_count(msg, ns_s_qd) == 1 && ns_parserr(&msg, ns_s_qd, 0, &rr) == 0 &&
	       strcmp(ns_rr_name(rr), asked) == 0;
}

int lat_answer_read(
	const uint8_t *data, size_t len, const char *name, int family, struct lat_resolved *out)
{
	char owner[NS_MAXDNAME], target[NS_MAXDNAME];
	uint32_t ttl;
	ns_msg msg;
	int count, r;

	if (len > NS_MAXMSG || strlen(name) >= sizeof(owner) ||
		ns_initparse(data, (int)len, &msg) < 0)
		return -EPROTO;
	if (!ns_msg_getflag(msg, ns_f_qr) ||
		!same_question(&msg, name, family == 4 ? ns_t_a : ns_t_aaaa))
		return -EPROTO;
	count = ns_msg_count(msg, ns_s_an) > RECORDS_MAX ? RECORDS_MAX : ns_msg_count(msg, ns_s_an);
	out->addr_count = out->cname_count = 0;
	strcpy(owner, name);
	while ((r = find_alias(&msg, count, owner, target, &ttl)) > 0) {
		r = add_alias(out, owner, target, ttl);
		if (r < 0)
			return r;
		strcpy(owner, target);
	}
	if (r < 0)
		return r;
	r = add_addresses(&msg, count, owner, family, out);
	if (r < 0)
		return r;
	out->status = out->addr_count ? 0 : -ENODATA;
	return 0;
}
