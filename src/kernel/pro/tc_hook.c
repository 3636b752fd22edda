/* The programs on the device: TCX links where the kernel has them (6.6), else clsact filters with a handle and a priority of
 * our own. A link is pinned and its program replaced through it; a filter holds itself and is replaced at its place. Either
 * way the hook never stands without a program in between. */
#include "kernel/pro/tc_parts.h"
#include "base/mem.h"
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#define TCX_INGRESS 46 /* enum bpf_attach_type of 6.6; Debian 12's header ends before it */
#define TCX_EGRESS 47
#define HANDLE 0x4c54u /* "LT" */
#define PRIORITY 0x4c54u
#define MOST_PROGS 64

static const enum bpf_attach_type hooks[TC_DIRS] = {
	[TC_OUT] = (enum bpf_attach_type)TCX_EGRESS, [TC_IN] = (enum bpf_attach_type)TCX_INGRESS,
};
static const enum bpf_tc_attach_point points[TC_DIRS] = { [TC_OUT] = BPF_TC_EGRESS, [TC_IN] = BPF_TC_INGRESS };
static const char *const names[TC_DIRS] = { [TC_OUT] = "egress", [TC_IN] = "ingress" };

/* ---- TCX ---- */

/* Is one of our programs there already? Who may not look at programs by number cannot tell. */
static int find_other(struct lat_tc *tc, int dir)
{
	uint32_t ids[MOST_PROGS], n = MOST_PROGS, flags;

	if (bpf_prog_query((int)tc->ifindex, hooks[dir], 0, &flags, ids, &n) < 0)
		return 0;
	for (uint32_t i = 0; i < n && i < MOST_PROGS; i++) {
		struct bpf_prog_info info = { 0 };
		uint32_t size = sizeof(info);
		lat_autoclose int fd = bpf_prog_get_fd_by_id(ids[i]);

		if (fd < 0 || bpf_obj_get_info_by_fd(fd, &info, &size) < 0 || strncmp(info.name, "lat_tc_", 7) != 0)
			continue;
		lat_tc_say(tc, "another Lattice program (number %u) is on %s %s", ids[i], tc->device, names[dir]);
		return -EBUSY;
	}
	return 0;
}

static int attach_tcx(struct lat_tc *tc, int dir)
{
	int r = find_other(tc, dir);

	if (r < 0)
		return r;
	tc->links[dir] = bpf_link_create(tc->progs[dir], (int)tc->ifindex, hooks[dir], NULL);
	if (tc->links[dir] < 0) {
		r = -errno;
		tc->links[dir] = -1;
		return r;
	}
	tc->attached[dir] = true;
	return lat_tc_pin_put(tc, lat_tc_link_names[dir], tc->links[dir]);
}

static int replace_tcx(struct lat_tc *tc, int dir)
{
	int r = lat_tc_pin_get(tc, lat_tc_link_names[dir]);

	if (r >= 0) {
		tc->links[dir] = r;
		if (bpf_link_update(r, tc->progs[dir], NULL) == 0) {
			tc->attached[dir] = true;
			return 0;
		}
		r = -errno;
		if (r != -ENOLINK)
			return r;
		lat_close(&tc->links[dir]);
		lat_tc_pin_drop(tc, lat_tc_link_names[dir]);
	} else if (r != -ENOENT) {
		return r;
	}
	lat_tc_say(tc, "the program on %s %s was gone", tc->device, names[dir]);
	return attach_tcx(tc, dir);
}

static void detach_tcx(struct lat_tc *tc, int dir)
{
	if (tc->links[dir] >= 0)
		bpf_link_detach(tc->links[dir]);
	lat_close(&tc->links[dir]);
	lat_tc_pin_drop(tc, lat_tc_link_names[dir]);
}

/* ---- clsact ---- */

static int attach_filter(struct lat_tc *tc, int dir, bool replace)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)tc->ifindex, .attach_point = points[dir]);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = HANDLE, .priority = PRIORITY, .prog_fd = tc->progs[dir],
		.flags = replace ? BPF_TC_F_REPLACE : 0);
	int r = bpf_tc_attach(&hook, &opts);

	if (r == -EEXIST)
		lat_tc_say(tc, "another Lattice filter is on %s %s", tc->device, names[dir]);
	if (r < 0)
		return r == -EEXIST ? -EBUSY : r;
	tc->attached[dir] = true;
	return 0;
}

static void detach_filter(struct lat_tc *tc, int dir)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)tc->ifindex, .attach_point = points[dir]);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = HANDLE, .priority = PRIORITY);

	bpf_tc_detach(&hook, &opts);
}

static int make_qdisc(struct lat_tc *tc)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)tc->ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	int r = bpf_tc_hook_create(&hook);

	if (r == -EEXIST)
		return 0;
	if (r == 0)
		tc->config.made_qdisc = 1;
	return r;
}

int lat_tc_has_filter(uint32_t ifindex, uint32_t parent)
{
	struct {
		struct nlmsghdr head;
		struct tcmsg tc;
	} ask = {
		.head = { .nlmsg_len = sizeof(ask), .nlmsg_type = RTM_GETTFILTER, .nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP },
		.tc = { .tcm_ifindex = (int)ifindex, .tcm_parent = parent },
	};
	lat_autoclose int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	char buf[16384];

	if (fd < 0 || send(fd, &ask, sizeof(ask), 0) < 0)
		return -errno;
	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		for (struct nlmsghdr *h = (struct nlmsghdr *)buf; NLMSG_OK(h, n); h = NLMSG_NEXT(h, n)) {
			if (h->nlmsg_type == NLMSG_DONE)
				return 0;
			if (h->nlmsg_type == NLMSG_ERROR)
				return ((struct nlmsgerr *)NLMSG_DATA(h))->error;
			if (h->nlmsg_type == RTM_NEWTFILTER)
				return 1;
		}
	}
}

/* The number of the program in our filter; 0: the filter, or the whole qdisc, is gone. */
static int find_filter(const struct lat_tc *tc, int dir, uint32_t *id)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)tc->ifindex, .attach_point = points[dir]);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = HANDLE, .priority = PRIORITY);
	int r = bpf_tc_query(&hook, &opts);

	if (r < 0 && r != -ENOENT && r != -EINVAL)
		return r;
	*id = r == 0 ? opts.prog_id : 0;
	return 0;
}

/* Is this program in the device's list? */
static int find_tcx(const struct lat_tc *tc, int dir, uint32_t *id)
{
	uint32_t ids[MOST_PROGS], n = MOST_PROGS, flags;

	if (bpf_prog_query((int)tc->ifindex, hooks[dir], 0, &flags, ids, &n) < 0)
		return -errno;
	for (uint32_t i = 0; i < n && i < MOST_PROGS; i++) {
		if (ids[i] == *id)
			return 0;
	}
	*id = 0;
	return 0;
}

/* The qdisc goes if we made it and nobody else has come to use it. */
static void drop_qdisc(struct lat_tc *tc)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)tc->ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);

	if (tc->config.made_qdisc && lat_tc_has_filter(tc->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)) == 0 &&
		lat_tc_has_filter(tc->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)) == 0)
		bpf_tc_hook_destroy(&hook);
}

/* ---- either ---- */

int lat_tc_attach(struct lat_tc *tc, bool no_tcx)
{
	const char *hidden = getenv("LATTICE_NO_TCX");
	int r = -EOPNOTSUPP;

	if (!no_tcx && !(hidden && hidden[0])) {
		r = attach_tcx(tc, TC_IN);
		if (r == 0)
			r = attach_tcx(tc, TC_OUT);
		if (r == 0) {
			tc->config.tcx = 1;
			lat_tc_say(tc, "TCX on %s, ingress and egress", tc->device);
			return 0;
		}
		if (r != -EINVAL && r != -EOPNOTSUPP) {
			lat_tc_say(tc, "cannot attach to %s: %s", tc->device, strerror(-r));
			return r;
		}
		for (int dir = 0; dir < TC_DIRS; dir++) {
			detach_tcx(tc, dir);
			tc->attached[dir] = false;
		}
	}
	tc->config.tcx = 0;
	if (r == -EINVAL)
		lat_tc_say(tc, "clsact on %s, ingress and egress: this kernel has no TCX (%s)", tc->device, strerror(-r));
	else
		lat_tc_say(tc, "clsact on %s, ingress and egress: TCX is hidden", tc->device);
	r = make_qdisc(tc);
	for (int dir = TC_DIRS - 1; r == 0 && dir >= 0; dir--)
		r = attach_filter(tc, dir, false);
	if (r < 0)
		lat_tc_say(tc, "cannot attach to %s: %s", tc->device, strerror(-r));
	return r;
}

int lat_tc_replace(struct lat_tc *tc)
{
	int r = tc->config.tcx ? 0 : make_qdisc(tc);

	for (int dir = TC_DIRS - 1; r == 0 && dir >= 0; dir--)
		r = tc->config.tcx ? replace_tcx(tc, dir) : attach_filter(tc, dir, true);
	if (r < 0)
		lat_tc_say(tc, "cannot replace the programs on %s: %s", tc->device, strerror(-r));
	else
		lat_tc_say(tc, "took over %s on %s, ingress and egress", tc->config.tcx ? "TCX" : "clsact", tc->device);
	return r;
}

int lat_tc_hooked(const struct lat_tc *tc)
{
	if (tc->group.fd >= 0)
		return lat_tc_group_hooked(tc);
	for (int dir = 0; dir < TC_DIRS; dir++) {
		struct bpf_prog_info info = { 0 };
		uint32_t size = sizeof(info), id;
		int r;

		if (tc->deferred || !tc->attached[dir])
			continue; /* a dead agent's programs, until our first generation */
		if (bpf_obj_get_info_by_fd(tc->progs[dir], &info, &size) < 0)
			return -errno;
		id = info.id;
		r = tc->config.tcx ? find_tcx(tc, dir, &id) : find_filter(tc, dir, &id);
		if (r < 0)
			return r;
		if (id != info.id)
			return 0;
	}
	return 1;
}

void lat_tc_reopen(struct lat_tc *tc)
{
	for (int dir = 0; dir < TC_DIRS; dir++) {
		tc->attached[dir] = true;
		if (!tc->config.tcx)
			continue;
		tc->links[dir] = lat_tc_pin_get(tc, lat_tc_link_names[dir]);
		if (tc->links[dir] < 0)
			tc->links[dir] = -1;
	}
}

void lat_tc_detach(struct lat_tc *tc)
{
	for (int dir = 0; dir < TC_DIRS; dir++) {
		if (tc->attached[dir] && !tc->config.tcx && tc->links[dir] < 0)
			detach_filter(tc, dir);
		else
			detach_tcx(tc, dir);
		tc->attached[dir] = false;
	}
	drop_qdisc(tc);
}
