/* The programs on the sockets of a cgroup (cgroup.bpf.c), hung on the group itself: they are there for as long as it is, and
 * no descriptor and no pin holds them. Beside those of other groups above and below it: all of them must agree. */
#include "kernel/pro/tc_parts.h"
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/privilege.h"
#include "kernel/unix_guard.h"
#include <fcntl.h>
#include <net/if.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

static const char *const prog_names[TC_DIRS] = { [TC_OUT] = "lat_cg_out", [TC_IN] = "lat_cg_in" };

/* May the programs ask for the name of a thread? */
static bool may_name_threads(void)
{
	uint64_t have = 0;

	return lat_capabilities(&have) == 0 &&
	       (have & (1ull << lat_capability_number("perfmon") | 1ull << lat_capability_number("sys_admin")));
}

static int open_group(struct lat_tc *tc, const struct lat_tc_cgroup *o)
{
	struct stat st;

	tc->group.fd = open(o->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (tc->group.fd < 0 || fstat(tc->group.fd, &st) < 0)
		return -errno;
	snprintf(tc->path, sizeof(tc->path), "%s", o->path);
	tc->group.id = st.st_ino;
	tc->group.dns_port = o->dns_port;
	tc->group.no_unix = o->no_unix;
	tc->group.comm = may_name_threads();
	if (!o->bind)
		return 0;
	tc->group.bind = if_nametoindex(o->bind);
	if (!tc->group.bind || strlen(o->bind) >= sizeof(tc->group.bind_name)) {
		lat_tc_say(tc, "there is no device %s", o->bind);
		return -ENODEV;
	}
	strcpy(tc->group.bind_name, o->bind);
	return 0;
}

/* Does the kernel know the hook? By a program that lets all pass, loaded and never used. */
static bool has_unix_hook(void)
{
	const struct bpf_insn code[] = {
		{ .code = BPF_ALU64 | BPF_MOV | BPF_K, .dst_reg = BPF_REG_0, .imm = 1 },
		{ .code = BPF_JMP | BPF_EXIT },
	};
	LIBBPF_OPTS(bpf_prog_load_opts, opts, .expected_attach_type = (enum bpf_attach_type)TC_CGROUP_UNIX_CONNECT);
	int fd = bpf_prog_load(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, "lat_probe", "Dual BSD/GPL", code, LAT_ARRAY_SIZE(code), &opts);

	if (fd >= 0)
		close(fd);
	return fd >= 0;
}

/* The packets first: whoever has sockets there already is judged before he hears of it. */
static int attach_all(struct lat_tc *tc)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, tc->object) {
		enum bpf_attach_type type = bpf_program__expected_attach_type(program);

		if (!bpf_program__autoload(program))
			continue;
		if (bpf_prog_attach(bpf_program__fd(program), tc->group.fd, type, BPF_F_ALLOW_MULTI) < 0) {
			int r = -errno;

			lat_tc_say(tc, "cannot attach %s to the group: %s", bpf_program__name(program), strerror(-r));
			return r;
		}
	}
	return 0;
}

void lat_tc_group_detach(struct lat_tc *tc)
{
	struct bpf_program *program;

	if (!tc->object)
		return;
	bpf_object__for_each_program(program, tc->object)
		if (bpf_program__fd(program) >= 0)
			bpf_prog_detach2(bpf_program__fd(program), tc->group.fd, bpf_program__expected_attach_type(program));
}

int lat_tc_group_hooked(const struct lat_tc *tc)
{
	struct bpf_program *program;

	bpf_object__for_each_program(program, tc->object) {
		uint32_t ids[64], n = LAT_ARRAY_SIZE(ids), flags, size = sizeof(struct bpf_prog_info), i = 0;
		struct bpf_prog_info info = { 0 };

		if (!bpf_program__autoload(program))
			continue;
		if (bpf_obj_get_info_by_fd(bpf_program__fd(program), &info, &size) < 0 ||
			bpf_prog_query(tc->group.fd, bpf_program__expected_attach_type(program), 0, &flags, ids, &n) < 0)
			return -errno;
		while (i < n && i < LAT_ARRAY_SIZE(ids) && ids[i] != info.id)
			i++;
		if (i == n || i == LAT_ARRAY_SIZE(ids))
			return 0;
	}
	return 1;
}

int lat_tc_group_start(struct lat_tc *tc, const struct lat_tc_options *options)
{
	int r = open_group(tc, &options->cgroup);
	char why[LAT_UNIX_GUARD_SAY] = "";

	if (r < 0) {
		lat_tc_say(tc, "the group %s: %s", options->cgroup.path, strerror(-r));
		return r;
	}
	/* The better hook sees both ends; the other refuses whatever comes. */
	if (tc->group.no_unix && lat_unix_guard(tc->path, why) == 0)
		tc->group.no_unix = false;
	if (tc->group.no_unix && !has_unix_hook()) {
		lat_tc_say(tc, "the kernel has no hook for unix sockets (Linux 6.7): %.300s", why);
		return -EOPNOTSUPP;
	}
	tc->config = (struct lat_tc_config){ .abi = LAT_TC_ABI, .stripes = lat_tc_stripes() };
	r = lat_tc_load(tc, options, "cgroup", prog_names);
	if (r < 0) {
		/* 6.1 follows what a processor may do ahead of a branch, and gives up after a million steps. */
		lat_tc_say(tc, "the kernel did not take the programs: %s%s", strerror(-r),
			r == -E2BIG && !tc->group.comm ? "; this one takes them from who has CAP_PERFMON, too" : "");
		return r;
	}
	tc->group.answers = fcntl(bpf_object__find_map_fd_by_name(tc->object, "lat_answers"), F_DUPFD_CLOEXEC, 3);
	return tc->group.answers < 0 ? -errno : attach_all(tc);
}

/* ---- answers ---- */

int lat_tc_answer(struct lat_tc *tc, const struct lat_addr *remote, uint8_t proto, uint16_t port, uint32_t pid, bool allow,
	uint64_t for_ns)
{
	struct lat_tc_answer_key key = { .pid = pid, .port = port, .proto = proto };
	struct lat_tc_answer_value value = { .until_ns = lat_now_ns() + for_ns, .action = allow };
	struct lat_tc_status status;
	int r = lat_tc_status(tc, &status);

	if (r < 0 || tc->group.answers < 0 || !status.generation)
		return r < 0 ? r : -ENOENT;
	if (for_ns > UINT64_MAX / 2)
		value.until_ns = UINT64_MAX;
	value.generation = status.generation;
	memcpy(key.remote, remote->b, sizeof(key.remote));
	return bpf_map_update_elem(tc->group.answers, &key, &value, BPF_ANY) < 0 ? -errno : 0;
}

int lat_tc_answers_clear(struct lat_tc *tc)
{
	struct lat_tc_answer_key key;

	/* More come meanwhile than there is room for only if somebody answers; then the next call forgets them. */
	for (int i = 0; i < 8192 && bpf_map_get_next_key(tc->group.answers, NULL, &key) == 0; i++)
		if (bpf_map_delete_elem(tc->group.answers, &key) < 0 && errno != ENOENT)
			return -errno;
	return 0;
}
