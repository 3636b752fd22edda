/* See conntrack.h. */
#include "kernel/conntrack.h"
#include <arpa/inet.h>
#include <endian.h>
#include <errno.h>
#include <libmnl/libmnl.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define TRIES 3 /* of a dump that the kernel interrupted */

struct list {
	uint32_t mask;
	int (*fn)(void *ctx, const struct lat_conntrack *ct);
	void *ctx;
	int stopped;
};

/* ---- reading ---- */

static int take_ip(const struct nlattr *attr, void *data)
{
	struct lat_conntrack_end *end = data;
	const void *value = mnl_attr_get_payload(attr);
	size_t len = mnl_attr_get_payload_len(attr);

	switch (mnl_attr_get_type(attr)) {
	case CTA_IP_V4_SRC:
	case CTA_IP_V4_DST:
		if (len == 4)
			lat_addr_from4(mnl_attr_get_type(attr) == CTA_IP_V4_SRC ? &end->src : &end->dst, value);
		break;
	case CTA_IP_V6_SRC:
	case CTA_IP_V6_DST:
		if (len == 16)
			lat_addr_from6(mnl_attr_get_type(attr) == CTA_IP_V6_SRC ? &end->src : &end->dst, value);
		break;
	}
	return MNL_CB_OK;
}

struct proto_ctx {
	struct lat_conntrack *ct;
	struct lat_conntrack_end *end;
};

static int take_proto(const struct nlattr *attr, void *data)
{
	struct proto_ctx *p = data;
	size_t len = mnl_attr_get_payload_len(attr);

	switch (mnl_attr_get_type(attr)) {
	case CTA_PROTO_NUM:
		if (len >= 1)
			p->ct->proto = mnl_attr_get_u8(attr);
		break;
	case CTA_PROTO_SRC_PORT:
		if (len >= 2)
			p->end->sport = ntohs(mnl_attr_get_u16(attr));
		break;
	case CTA_PROTO_DST_PORT:
		if (len >= 2)
			p->end->dport = ntohs(mnl_attr_get_u16(attr));
		break;
	case CTA_PROTO_ICMP_ID:
	case CTA_PROTO_ICMPV6_ID:
		if (len >= 2 && p->end == &p->ct->orig)
			p->ct->icmp_id = ntohs(mnl_attr_get_u16(attr));
		break;
	case CTA_PROTO_ICMP_TYPE:
	case CTA_PROTO_ICMPV6_TYPE:
		if (len >= 1 && p->end == &p->ct->orig)
			p->ct->icmp_type = mnl_attr_get_u8(attr);
		break;
	case CTA_PROTO_ICMP_CODE:
	case CTA_PROTO_ICMPV6_CODE:
		if (len >= 1 && p->end == &p->ct->orig)
			p->ct->icmp_code = mnl_attr_get_u8(attr);
		break;
	}
	return MNL_CB_OK;
}

static void take_tuple(const struct nlattr *tuple, struct lat_conntrack *ct, struct lat_conntrack_end *end)
{
	struct proto_ctx p = { ct, end };
	const struct nlattr *attr;

	mnl_attr_for_each_nested(attr, tuple) {
		if (mnl_attr_get_type(attr) == CTA_TUPLE_IP)
			mnl_attr_parse_nested(attr, take_ip, end);
		else if (mnl_attr_get_type(attr) == CTA_TUPLE_PROTO)
			mnl_attr_parse_nested(attr, take_proto, &p);
	}
}

static void take_counters(const struct nlattr *counters, uint64_t *packets, uint64_t *bytes)
{
	const struct nlattr *attr;

	mnl_attr_for_each_nested(attr, counters) {
		if (mnl_attr_get_payload_len(attr) < 8)
			continue;
		if (mnl_attr_get_type(attr) == CTA_COUNTERS_PACKETS)
			*packets = be64toh(mnl_attr_get_u64(attr));
		else if (mnl_attr_get_type(attr) == CTA_COUNTERS_BYTES)
			*bytes = be64toh(mnl_attr_get_u64(attr));
	}
}

static int on_entry(const struct nlmsghdr *nlh, void *data)
{
	const struct nfgenmsg *head = mnl_nlmsg_get_payload(nlh);
	struct lat_conntrack ct = { .family = head->nfgen_family == AF_INET6 ? 6 : 4 };
	struct list *list = data;
	const struct nlattr *attr;

	if (list->stopped)
		return MNL_CB_OK; /* the rest of the answer is read and thrown away */
	mnl_attr_for_each(attr, nlh, sizeof(*head)) {
		switch (mnl_attr_get_type(attr)) {
		case CTA_TUPLE_ORIG:
			take_tuple(attr, &ct, &ct.orig);
			break;
		case CTA_TUPLE_REPLY:
			take_tuple(attr, &ct, &ct.reply);
			break;
		case CTA_MARK:
			ct.mark = ntohl(mnl_attr_get_u32(attr));
			break;
		case CTA_ZONE:
			ct.zone = ntohs(mnl_attr_get_u16(attr));
			break;
		case CTA_COUNTERS_ORIG:
			take_counters(attr, &ct.packets[0], &ct.bytes[0]);
			break;
		case CTA_COUNTERS_REPLY:
			take_counters(attr, &ct.packets[1], &ct.bytes[1]);
			break;
		}
	}
	if ((ct.mark & list->mask) != 0)
		list->stopped = list->fn(list->ctx, &ct);
	return MNL_CB_OK;
}

/* ---- questions ---- */

static struct nlmsghdr *begin(char *buf, uint16_t type, uint16_t flags, int family)
{
	struct nlmsghdr *nlh = mnl_nlmsg_put_header(buf);
	struct nfgenmsg *head;

	nlh->nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | type);
	nlh->nlmsg_flags = NLM_F_REQUEST | flags;
	nlh->nlmsg_seq = (uint32_t)time(NULL);
	head = mnl_nlmsg_put_extra_header(nlh, sizeof(*head));
	head->nfgen_family = (uint8_t)family;
	head->version = NFNETLINK_V0;
	return nlh;
}

static int ask(const struct nlmsghdr *nlh, mnl_cb_t each, void *data)
{
	struct mnl_socket *nl = mnl_socket_open2(NETLINK_NETFILTER, SOCK_CLOEXEC);
	size_t size = 1u << 17;
	char *buf = malloc(size);
	int r = -EIO;

	if (!nl || !buf)
		r = nl ? -ENOMEM : -errno;
	else if (mnl_socket_bind(nl, 0, MNL_SOCKET_AUTOPID) < 0 || mnl_socket_sendto(nl, nlh, nlh->nlmsg_len) < 0)
		r = -errno;
	else
		for (;;) {
			ssize_t n = mnl_socket_recvfrom(nl, buf, size);

			if (n < 0) {
				r = -errno;
				break;
			}
			r = mnl_cb_run(buf, (size_t)n, nlh->nlmsg_seq, mnl_socket_get_portid(nl), each, data);
			if (r <= MNL_CB_STOP) {
				r = r < 0 ? -errno : 0;
				break;
			}
		}
	free(buf);
	if (nl)
		mnl_socket_close(nl);
	return r;
}

int lat_conntrack_list(uint32_t mask, int (*fn)(void *ctx, const struct lat_conntrack *ct), void *ctx)
{
	struct list list = { mask, fn, ctx, 0 };
	char buf[256];
	int r = -EINTR;

	/* An interrupted dump is asked for again: fn may see a connection twice. */
	for (int i = 0; i < TRIES && (r == -EINTR || r == -ENOBUFS); i++)
		r = ask(begin(buf, IPCTNL_MSG_CT_GET, NLM_F_DUMP, AF_UNSPEC), on_entry, &list);
	return r < 0 ? r : list.stopped;
}

static void put_tuple(struct nlmsghdr *nlh, const struct lat_conntrack *ct)
{
	struct nlattr *tuple = mnl_attr_nest_start(nlh, CTA_TUPLE_ORIG), *part;
	bool four = ct->family == 4;

	part = mnl_attr_nest_start(nlh, CTA_TUPLE_IP);
	mnl_attr_put(nlh, four ? CTA_IP_V4_SRC : CTA_IP_V6_SRC, four ? 4 : 16, ct->orig.src.b + (four ? 12 : 0));
	mnl_attr_put(nlh, four ? CTA_IP_V4_DST : CTA_IP_V6_DST, four ? 4 : 16, ct->orig.dst.b + (four ? 12 : 0));
	mnl_attr_nest_end(nlh, part);
	part = mnl_attr_nest_start(nlh, CTA_TUPLE_PROTO);
	mnl_attr_put_u8(nlh, CTA_PROTO_NUM, ct->proto);
	if (ct->proto == IPPROTO_ICMP || ct->proto == IPPROTO_ICMPV6) {
		bool v4 = ct->proto == IPPROTO_ICMP;

		mnl_attr_put_u16(nlh, v4 ? CTA_PROTO_ICMP_ID : CTA_PROTO_ICMPV6_ID, htons(ct->icmp_id));
		mnl_attr_put_u8(nlh, v4 ? CTA_PROTO_ICMP_TYPE : CTA_PROTO_ICMPV6_TYPE, ct->icmp_type);
		mnl_attr_put_u8(nlh, v4 ? CTA_PROTO_ICMP_CODE : CTA_PROTO_ICMPV6_CODE, ct->icmp_code);
	} else {
		mnl_attr_put_u16(nlh, CTA_PROTO_SRC_PORT, htons(ct->orig.sport));
		mnl_attr_put_u16(nlh, CTA_PROTO_DST_PORT, htons(ct->orig.dport));
	}
	mnl_attr_nest_end(nlh, part);
	mnl_attr_nest_end(nlh, tuple);
	if (ct->zone)
		mnl_attr_put_u16(nlh, CTA_ZONE, htons(ct->zone));
}

int lat_conntrack_remark(const struct lat_conntrack *ct, uint32_t value, uint32_t mask)
{
	char buf[512];
	struct nlmsghdr *nlh = begin(buf, IPCTNL_MSG_CT_NEW, NLM_F_ACK, ct->family == 4 ? AF_INET : AF_INET6);

	put_tuple(nlh, ct);
	mnl_attr_put_u32(nlh, CTA_MARK, htonl(value & mask));
	mnl_attr_put_u32(nlh, CTA_MARK_MASK, htonl(mask));
	return ask(nlh, NULL, NULL);
}
