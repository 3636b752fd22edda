/* Programs on devices, for scripts and probes; see bpf.h. (The enforcer has hooks of its own, which outlive it: tc_hook.c.) */
#include "kernel/bpf.h"
#include "base/mem.h"
#include "kernel/pro/tc_parts.h"
#include <linux/pkt_sched.h>
#include <string.h>

#define TCX_INGRESS 46 /* enum bpf_attach_type of 6.6; Debian 12's header ends before it */
#define TCX_EGRESS 47

static enum bpf_attach_type tcx(bool in)
{
	return (enum bpf_attach_type)(in ? TCX_INGRESS : TCX_EGRESS);
}

static int attach_clsact(int program, struct lat_bpf_attachment *a)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)a->ifindex, .attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .prog_fd = program);
	int r = bpf_tc_hook_create(&hook);

	if (r < 0 && r != -EEXIST)
		return r;
	a->made_qdisc = r == 0;
	hook.attach_point = a->in ? BPF_TC_INGRESS : BPF_TC_EGRESS;
	r = bpf_tc_attach(&hook, &opts); /* the kernel chooses the place: behind what is there */
	if (r < 0 && a->made_qdisc) {
		hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
		bpf_tc_hook_destroy(&hook);
	}
	a->handle = opts.handle;
	a->priority = opts.priority;
	return r;
}

int lat_bpf_attach(int program, uint32_t ifindex, bool in, enum lat_bpf_hook how, struct lat_bpf_attachment *out)
{
	struct lat_bpf_attachment a = { .ifindex = ifindex, .in = in, .link = -1, .how = LAT_BPF_TCX };
	int r = -EINVAL;

	if (how != LAT_BPF_CLSACT) {
		a.link = bpf_link_create(program, (int)ifindex, tcx(in), NULL);
		r = a.link < 0 ? -errno : 0;
		a.link = r < 0 ? -1 : a.link;
	}
	if (how == LAT_BPF_CLSACT || (how == LAT_BPF_AUTO && (r == -EINVAL || r == -EOPNOTSUPP))) {
		a.how = LAT_BPF_CLSACT;
		r = attach_clsact(program, &a);
	}
	if (r == 0)
		*out = a;
	return r;
}

void lat_bpf_detach(struct lat_bpf_attachment *a)
{
	LIBBPF_OPTS(bpf_tc_hook, hook, .ifindex = (int)a->ifindex, .attach_point = a->in ? BPF_TC_INGRESS : BPF_TC_EGRESS);
	LIBBPF_OPTS(bpf_tc_opts, opts, .handle = a->handle, .priority = a->priority);

	if (a->how == LAT_BPF_TCX) {
		if (a->link >= 0)
			bpf_link_detach(a->link);
		lat_close(&a->link);
		return;
	}
	bpf_tc_detach(&hook, &opts);
	if (a->made_qdisc && lat_tc_has_filter(a->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_INGRESS)) == 0 &&
		lat_tc_has_filter(a->ifindex, TC_H_MAKE(TC_H_CLSACT, TC_H_MIN_EGRESS)) == 0) {
		hook.attach_point = BPF_TC_INGRESS | BPF_TC_EGRESS;
		bpf_tc_hook_destroy(&hook);
	}
}

int lat_bpf_attached(uint32_t ifindex, bool in, struct lat_bpf_info *out, size_t count)
{
	uint32_t ids[64], n = LAT_ARRAY_SIZE(ids), flags;
	size_t found = 0;

	if (bpf_prog_query((int)ifindex, tcx(in), 0, &flags, ids, &n) < 0)
		return -errno;
	for (uint32_t i = 0; i < n && i < LAT_ARRAY_SIZE(ids) && found < count; i++) {
		lat_autoclose int fd = bpf_prog_get_fd_by_id(ids[i]);

		out[found] = (struct lat_bpf_info){ .id = ids[i] };
		if (fd >= 0)
			lat_bpf_info(fd, &out[found]);
		found++;
	}
	return (int)found;
}
