/* The trap's network: lo alone, on which every address is local. A packet for anywhere comes back
 * in on lo; there is no device that leads out, so nothing leaves even if every rule of netfilter
 * were gone. */
#include "base/mem.h"
#include "launcher/setup.h"
#include "launcher/trap.h"
#include <arpa/inet.h>
#include <fcntl.h>
#include <libmnl/libmnl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>

#define LO_INDEX 1u /* lo is the first device of every network namespace */

/* Sends one request and takes its confirmation. */
static int request(int fd, struct nlmsghdr *h)
{
	struct sockaddr_nl to = { .nl_family = AF_NETLINK };
	char reply[1024];
	ssize_t got;

	h->nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
	if (sendto(fd, h, h->nlmsg_len, 0, (struct sockaddr *)&to, sizeof(to)) < 0)
		return -errno;
	got = recv(fd, reply, sizeof(reply), 0);
	h = (struct nlmsghdr *)reply;
	if (got < 0)
		return -errno;
	if (!mnl_nlmsg_ok(h, (int)got) || h->nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	return ((struct nlmsgerr *)mnl_nlmsg_get_payload(h))->error;
}

static int lo_up(int fd)
{
	char buf[256];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct ifinfomsg *i = mnl_nlmsg_put_extra_header(h, sizeof(*i));

	h->nlmsg_type = RTM_NEWLINK;
	i->ifi_index = LO_INDEX;
	i->ifi_flags = i->ifi_change = IFF_UP;
	return request(fd, h);
}

static size_t own_address(int family, uint8_t *out)
{
	inet_pton(family, family == AF_INET ? LAT_TRAP_ADDR4 : LAT_TRAP_ADDR6, out);
	return family == AF_INET ? 4 : 16;
}

static int add_address(int fd, int family)
{
	char buf[256];
	uint8_t address[16];
	size_t len = own_address(family, address);
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct ifaddrmsg *a = mnl_nlmsg_put_extra_header(h, sizeof(*a));

	h->nlmsg_type = RTM_NEWADDR;
	h->nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL;
	a->ifa_family = (uint8_t)family;
	a->ifa_prefixlen = (uint8_t)(len * 8);
	a->ifa_flags = IFA_F_PERMANENT | IFA_F_NODAD;
	a->ifa_index = LO_INDEX;
	mnl_attr_put(h, IFA_LOCAL, len, address);
	mnl_attr_put(h, IFA_ADDRESS, len, address);
	return request(fd, h);
}

/* local default dev lo src OWN. The source matters: without it a connection would come from its own
 * destination. */
static int add_route(int fd, int family)
{
	char buf[256];
	uint8_t address[16];
	size_t len = own_address(family, address);
	struct nlmsghdr *h = mnl_nlmsg_put_header(buf);
	struct rtmsg *r = mnl_nlmsg_put_extra_header(h, sizeof(*r));

	h->nlmsg_type = RTM_NEWROUTE;
	h->nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL;
	r->rtm_family = (uint8_t)family;
	r->rtm_table = RT_TABLE_LOCAL;
	r->rtm_protocol = RTPROT_STATIC;
	r->rtm_scope = family == AF_INET ? RT_SCOPE_HOST : RT_SCOPE_UNIVERSE;
	r->rtm_type = RTN_LOCAL;
	mnl_attr_put_u32(h, RTA_OIF, LO_INDEX);
	mnl_attr_put(h, RTA_PREFSRC, len, address);
	return request(fd, h);
}

int lat_network_up(struct lat_setup *s)
{
	lat_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int r;

	if (fd < 0)
		return lat_setup_fail(s, -errno, "network namespace: route netlink socket");
	/* Where the host has switched IPv6 off, new namespaces may inherit that. */
	if (s->ipv6 && lat_write_file("/proc/sys/net/ipv6/conf/all/disable_ipv6", "0") == -ENOENT)
		s->ipv6 = false;
	r = lo_up(fd);
	if (r)
		return lat_setup_fail(s, r, "network namespace: setting lo up");
	r = add_address(fd, AF_INET);
	if (!r)
		r = add_route(fd, AF_INET);
	if (r)
		return lat_setup_fail(s, r, "network namespace: address and route on lo");
	if (s->ipv6) {
		r = add_address(fd, AF_INET6);
		if (!r)
			r = add_route(fd, AF_INET6);
	}
	if (r) {
		s->ipv6 = false;
		lat_setup_warn(s, "no IPv6 inside (%s)", strerrordesc_np(-r));
	}
	return 0;
}

/* Who may ping: the mapped range that the caller's group is in. The kernel refuses groups that are not mapped and those
 * above 2^31 - 1. */
static void ping_groups(const struct lat_setup *s, char *out, size_t size)
{
	unsigned long last = s->gid, first = s->gid;

	for (const char *line = s->gid_map; line; line = strchr(line + 1, '\n')) {
		unsigned long from, count;

		if (sscanf(line, " %lu %*u %lu", &from, &count) == 2 && s->gid >= from &&
			s->gid - from < count) {
			first = from;
			last = from + count - 1;
		}
	}
	snprintf(out, size, "%lu %lu", first, last < INT32_MAX ? last : INT32_MAX);
}

/* Settings of the new network namespace: these files act on the namespace of who opens them. */
int lat_network_sysctls(struct lat_setup *s)
{
	char groups[32];
	const struct {
		const char *path, *text;
		bool needed;
	} settings[] = {
		/* Servers inside may bind 80 and 443, and ping needs no set-uid program. */
		{ "ip_unprivileged_port_start", "0", true },
		{ "ping_group_range", groups, false },
		/* A SYN is the only way into a listener: with cookies an ACK would be one. */
		{ "tcp_syncookies", "0", true },
		/* On a loopback nothing is congested: what paces or probes (the host may use bbr)
		   only costs. */
		{ "tcp_congestion_control", "reno", false },
		{ "tcp_max_syn_backlog", "65535", false },
	};

	ping_groups(s, groups, sizeof(groups));
	for (size_t i = 0; i < LAT_ARRAY_SIZE(settings); i++) {
		char path[96];
		int r;

		snprintf(path, sizeof(path), "/proc/sys/net/ipv4/%s", settings[i].path);
		r = lat_write_file(path, settings[i].text);
		if (r && settings[i].needed)
			return lat_setup_fail(s, r, "network namespace: writing %s", path);
	}
	lat_write_file("/proc/sys/net/core/somaxconn", "65535");
	return 0;
}

int lat_trap_install(struct lat_setup *s)
{
	int r = lat_nft_send(s->given[LAT_GIVEN_NFT], &s->trap[0]);

	if (r == -ENOENT)
		r = lat_nft_send(s->given[LAT_GIVEN_NFT], &s->trap[1]);
	if (r)
		return lat_setup_fail(s, r,
			"trap: the kernel took neither the NFQUEUE target nor the queue expression "
			"of nf_tables (needed: nf_tables, NFQUEUE, TPROXY, socket, reject)");
	return 0;
}
