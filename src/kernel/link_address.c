/* Addresses, routes and queueing disciplines of link.h. */
#include "base/mem.h"
#include "kernel/link_impl.h"
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>

static int family_of(uint8_t family)
{
	return family == 4 ? AF_INET : AF_INET6;
}

/* The bytes of an address as its family has them on the wire. */
static const uint8_t *wire(const struct lat_addr *a, uint8_t family)
{
	return family == 4 ? a->b + 12 : a->b;
}

static int put_address(struct nl_msg *msg, int type, const struct lat_addr *a, uint8_t family)
{
	return nla_put(msg, type, family == 4 ? 4 : 16, wire(a, family));
}

static bool get_address(const struct nlattr *a, uint8_t family, struct lat_addr *out)
{
	if (!a || nla_len(a) != (family == 4 ? 4 : 16))
		return false;
	if (family == 4)
		lat_addr_from4(out, nla_data(a));
	else
		lat_addr_from6(out, nla_data(a));
	return true;
}

static struct nl_msg *message(int type, int flags, void *header, size_t size)
{
	struct nl_msg *msg = nlmsg_alloc_simple(type, flags);

	if (msg && nlmsg_append(msg, header, size, NLMSG_ALIGNTO) < 0) {
		nlmsg_free(msg);
		return NULL;
	}
	return msg;
}

/* ---- addresses ---- */

int lat_link_address_parse(const char *text, struct lat_link_address *out)
{
	struct lat_link_address a = { .family = 0 };
	const char *slash = strchr(text, '/');
	char host[LAT_ADDR_TEXT];
	unsigned max, len = 0;

	if (slash && (size_t)(slash - text) >= sizeof(host))
		return -EINVAL;
	snprintf(host, sizeof(host), "%.*s", slash ? (int)(slash - text) : (int)sizeof(host) - 1, text);
	if (!slash && strlen(text) >= sizeof(host))
		return -EINVAL;
	if (lat_addr_parse(host, &a.addr) < 0)
		return -EINVAL;
	a.family = lat_addr_is4(&a.addr) ? 4 : 6;
	max = a.family == 4 ? 32 : 128;
	if (!slash) {
		len = max;
	} else {
		const char *p = slash + 1;

		if (!*p || (*p == '0' && p[1]))
			return -EINVAL;
		for (; *p; p++) {
			if (*p < '0' || *p > '9')
				return -EINVAL;
			len = len * 10 + (unsigned)(*p - '0');
			if (len > max)
				return -ERANGE;
		}
	}
	a.len = (uint8_t)len;
	*out = a;
	return 0;
}

bool lat_link_decode_address(const struct nlmsghdr *h, struct lat_link_address *out)
{
	struct nlattr *tb[IFA_MAX + 1];
	const struct ifaddrmsg *m;
	uint32_t flags;

	if ((h->nlmsg_type != RTM_NEWADDR && h->nlmsg_type != RTM_DELADDR) ||
		nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*m), tb, IFA_MAX, NULL) < 0)
		return false;
	m = nlmsg_data(h);
	if (m->ifa_family != AF_INET && m->ifa_family != AF_INET6)
		return false;
	memset(out, 0, sizeof(*out));
	out->family = m->ifa_family == AF_INET ? 4 : 6;
	out->len = m->ifa_prefixlen;
	out->index = m->ifa_index;
	flags = tb[IFA_FLAGS] && nla_len(tb[IFA_FLAGS]) >= 4 ? nla_get_u32(tb[IFA_FLAGS]) : m->ifa_flags;
	out->tentative = flags & IFA_F_TENTATIVE;
	/* Point to point: LOCAL is ours, ADDRESS the other end's. */
	return get_address(tb[IFA_LOCAL] ? tb[IFA_LOCAL] : tb[IFA_ADDRESS], out->family, &out->addr);
}

struct each_address {
	lat_link_address_fn *fn;
	void *ctx;
};

static int each_address(struct lat_links *links, const struct nlmsghdr *h, void *arg)
{
	struct each_address *each = arg;
	struct lat_link_address a;

	if (lat_link_decode_address(h, &a))
		each->fn(each->ctx, &a);
	return 0;
}

int lat_link_address_list(struct lat_links *links, lat_link_address_fn *fn, void *ctx)
{
	struct ifaddrmsg m = { .ifa_family = AF_UNSPEC };
	struct each_address each = { fn, ctx };

	return lat_links_dump(links, RTM_GETADDR, &m, sizeof(m), each_address, &each);
}

static int address(struct lat_links *links, int type, int flags, const struct lat_link_address *a)
{
	struct ifaddrmsg m = { .ifa_family = (uint8_t)family_of(a->family), .ifa_prefixlen = a->len, .ifa_index = a->index,
		.ifa_flags = a->family == 6 ? IFA_F_NODAD : 0 };
	struct nl_msg *msg = message(type, flags, &m, sizeof(m));

	if (!msg || put_address(msg, IFA_LOCAL, &a->addr, a->family) < 0 ||
		put_address(msg, IFA_ADDRESS, &a->addr, a->family) < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return lat_links_do(links, msg);
}

int lat_link_address_add(struct lat_links *links, const struct lat_link_address *a)
{
	return address(links, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, a);
}

int lat_link_address_delete(struct lat_links *links, const struct lat_link_address *a)
{
	return address(links, RTM_DELADDR, 0, a);
}

/* ---- routes ---- */

bool lat_link_decode_route(const struct nlmsghdr *h, struct lat_link_route *out)
{
	struct nlattr *tb[RTA_MAX + 1];
	const struct rtmsg *m;

	if ((h->nlmsg_type != RTM_NEWROUTE && h->nlmsg_type != RTM_DELROUTE) ||
		nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*m), tb, RTA_MAX, NULL) < 0)
		return false;
	m = nlmsg_data(h);
	if ((m->rtm_family != AF_INET && m->rtm_family != AF_INET6) || m->rtm_type != RTN_UNICAST ||
		m->rtm_flags & RTM_F_CLONED)
		return false;
	memset(out, 0, sizeof(*out));
	out->to.family = m->rtm_family == AF_INET ? 4 : 6;
	out->to.len = m->rtm_dst_len;
	if (!get_address(tb[RTA_DST], out->to.family, &out->to.addr)) {
		if (tb[RTA_DST] || m->rtm_dst_len != 0)
			return false;
		if (out->to.family == 4)
			lat_addr_from4(&out->to.addr, "\0\0\0\0");
	}
	out->table = tb[RTA_TABLE] && nla_len(tb[RTA_TABLE]) >= 4 ? nla_get_u32(tb[RTA_TABLE]) : m->rtm_table;
	if (out->table == RT_TABLE_LOCAL)
		return false;
	out->protocol = m->rtm_protocol;
	if (tb[RTA_OIF] && nla_len(tb[RTA_OIF]) >= 4)
		out->index = nla_get_u32(tb[RTA_OIF]);
	if (tb[RTA_PRIORITY] && nla_len(tb[RTA_PRIORITY]) >= 4)
		out->metric = nla_get_u32(tb[RTA_PRIORITY]);
	out->has_via = get_address(tb[RTA_GATEWAY], out->to.family, &out->via);
	return true;
}

struct each_route {
	lat_link_route_fn *fn;
	void *ctx;
};

static int each_route(struct lat_links *links, const struct nlmsghdr *h, void *arg)
{
	struct each_route *each = arg;
	struct lat_link_route route;

	if (lat_link_decode_route(h, &route))
		each->fn(each->ctx, &route);
	return 0;
}

int lat_link_route_list(struct lat_links *links, lat_link_route_fn *fn, void *ctx)
{
	struct rtmsg m = { .rtm_family = AF_UNSPEC };
	struct each_route each = { fn, ctx };

	return lat_links_dump(links, RTM_GETROUTE, &m, sizeof(m), each_route, &each);
}

static int route(struct lat_links *links, int type, int flags, const struct lat_link_route *r)
{
	bool making = type == RTM_NEWROUTE;
	struct rtmsg m = { .rtm_family = (uint8_t)family_of(r->to.family), .rtm_dst_len = r->to.len,
		.rtm_table = RT_TABLE_UNSPEC, .rtm_protocol = r->protocol ? r->protocol : making ? RTPROT_STATIC : 0,
		.rtm_type = RTN_UNICAST,
		.rtm_scope = r->has_via || r->to.family == 6 ? RT_SCOPE_UNIVERSE : RT_SCOPE_LINK };
	struct nl_msg *msg;

	if (!making)
		m.rtm_scope = RT_SCOPE_NOWHERE; /* whatever it has */
	msg = message(type, flags, &m, sizeof(m));
	if (!msg || nla_put_u32(msg, RTA_TABLE, r->table ? r->table : RT_TABLE_MAIN) < 0 ||
		(r->to.len && put_address(msg, RTA_DST, &r->to.addr, r->to.family) < 0) ||
		(r->index && nla_put_u32(msg, RTA_OIF, r->index) < 0) ||
		(r->metric && nla_put_u32(msg, RTA_PRIORITY, r->metric) < 0) ||
		(r->has_via && put_address(msg, RTA_GATEWAY, &r->via, r->to.family) < 0)) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return lat_links_do(links, msg);
}

int lat_link_route_add(struct lat_links *links, const struct lat_link_route *r, bool replace)
{
	return route(links, RTM_NEWROUTE, NLM_F_CREATE | (replace ? NLM_F_REPLACE : NLM_F_EXCL), r);
}

int lat_link_route_delete(struct lat_links *links, const struct lat_link_route *r)
{
	return route(links, RTM_DELROUTE, 0, r);
}

/* ---- queueing disciplines ---- */

struct each_qdisc {
	lat_link_qdisc_fn *fn;
	void *ctx;
};

static int each_qdisc(struct lat_links *links, const struct nlmsghdr *h, void *arg)
{
	struct each_qdisc *each = arg;
	struct lat_link_qdisc q = { 0 };
	struct nlattr *tb[TCA_MAX + 1];
	const struct tcmsg *m;

	if (h->nlmsg_type != RTM_NEWQDISC ||
		nlmsg_parse((struct nlmsghdr *)(uintptr_t)h, sizeof(*m), tb, TCA_MAX, NULL) < 0)
		return 0;
	m = nlmsg_data(h);
	q.index = (uint32_t)m->tcm_ifindex;
	q.handle = m->tcm_handle;
	q.parent = m->tcm_parent;
	if (tb[TCA_KIND])
		snprintf(q.kind, sizeof(q.kind), "%.*s", (int)strnlen(nla_data(tb[TCA_KIND]), (size_t)nla_len(tb[TCA_KIND])),
			(const char *)nla_data(tb[TCA_KIND]));
	each->fn(each->ctx, &q);
	return 0;
}

int lat_link_qdisc_list(struct lat_links *links, lat_link_qdisc_fn *fn, void *ctx)
{
	struct tcmsg m = { .tcm_family = AF_UNSPEC };
	struct each_qdisc each = { fn, ctx };

	return lat_links_dump(links, RTM_GETQDISC, &m, sizeof(m), each_qdisc, &each);
}

int lat_link_clsact(struct lat_links *links, uint32_t index, bool add)
{
	struct tcmsg m = { .tcm_family = AF_UNSPEC, .tcm_ifindex = (int)index, .tcm_parent = TC_H_CLSACT,
		.tcm_handle = TC_H_MAKE(TC_H_CLSACT, 0) };
	struct nl_msg *msg = message(add ? RTM_NEWQDISC : RTM_DELQDISC, add ? NLM_F_CREATE | NLM_F_EXCL : 0, &m, sizeof(m));

	if (!msg || nla_put_string(msg, TCA_KIND, "clsact") < 0) {
		nlmsg_free(msg);
		return -ENOMEM;
	}
	return lat_links_do(links, msg);
}
