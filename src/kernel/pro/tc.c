/* The life of the tc enforcer on one device: load or take over, and close; see tc.h. */
#include "kernel/pro/tc_parts.h"
#include "base/edition.h"
#include "base/mem.h"
#include "kernel/caps.h"
#include "kernel/caps_impl.h"
#include "kernel/pro/objects.h"
#include <fcntl.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/random.h>
#include <sys/socket.h>
#include <time.h>

#define MOST_STRIPES 64u

const char *const lat_tc_map_names[TC_MAPS] = {
	[TC_LIVE] = "lat_live", [TC_LPM_SLOTS] = "lat_lpm_slots", [TC_DATA_SLOTS] = "lat_data_slots",
	[TC_OVERLAYS] = "lat_overlays", [TC_PINS] = "lat_pins", [TC_FLOWS] = "lat_flows",
	[TC_FRAGMENTS] = "lat_fragments", [TC_STATS] = "lat_stats", [TC_TOLD] = "lat_told", [TC_EVENTS] = "lat_events",
	[TC_CONFIG] = "lat_config",
};

static const char *const prog_names[TC_DIRS] = { [TC_OUT] = "lat_tc_out", [TC_IN] = "lat_tc_in" };

void lat_tc_say(struct lat_tc *tc, const char *format, ...)
{
	size_t used;
	va_list args;

	if (!tc->say)
		return;
	used = strlen(tc->say);
	if (used && used + 3 < LAT_TC_SAY)
		used += (size_t)snprintf(tc->say + used, LAT_TC_SAY - used, "; ");
	va_start(args, format);
	vsnprintf(tc->say + used, LAT_TC_SAY - used, format, args);
	va_end(args);
}

static int quiet(enum libbpf_print_level level, const char *format, va_list args)
{
	return 0;
}

/* ---- loading ---- */

static int open_object(const char *name, struct bpf_object **out)
{
	const struct lat_bpf_object *o = lat_bpf_objects;
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "lat_tc");
	struct bpf_object *object;

	while (o->name && strcmp(o->name, name) != 0)
		o++;
	if (!o->name)
		return -ENOENT;
	libbpf_set_print(quiet);
	object = bpf_object__open_mem(o->data, (size_t)(o->end - o->data), &opts);
	if (!object)
		return -errno;
	*out = object;
	return 0;
}

static int set_constants(struct lat_tc *tc, uint32_t event_rate)
{
	struct bpf_map *map;
	struct timespec tick;
	struct lat_tc_constants constants = {
		.ether = tc->ether, .stripe_mask = tc->config.stripes - 1, .ask_mark = tc->ask_mark,
		.ask_word = tc->ask_word, .event_rate = event_rate,
		.tick_ns = clock_getres(CLOCK_MONOTONIC_COARSE, &tick) == 0 ? (uint32_t)tick.tv_nsec : 10000000,
		.shared = libbpf_num_possible_cpus() > (int)tc->config.stripes, .bind = tc->group.bind,
		.group = tc->group.id, .dns_port = htons(tc->group.dns_port), .comm = tc->group.comm,
	};

	memcpy(constants.bind_name, tc->group.bind_name, sizeof(constants.bind_name));
	bpf_object__for_each_map(map, tc->object)
		if (strstr(bpf_map__name(map), ".rodata.tc"))
			return bpf_map__set_initial_value(map, &constants, sizeof(constants));
	return -ENOENT;
}

/* The one program that older kernels do not know: taken where it is asked for. */
static int choose_unix(struct lat_tc *tc)
{
	struct bpf_program *program = bpf_object__find_program_by_name(tc->object, "lat_cg_unix");
	int r;

	if (!program)
		return 0;
	r = bpf_program__set_expected_attach_type(program, (enum bpf_attach_type)TC_CGROUP_UNIX_CONNECT);
	return r < 0 ? r : bpf_program__set_autoload(program, tc->group.no_unix);
}

int lat_tc_load(struct lat_tc *tc, const struct lat_tc_options *options, const char *object, const char *const programs[TC_DIRS])
{
	struct bpf_map *flows;
	int r = open_object(object, &tc->object);

	if (r < 0)
		return r;
	r = set_constants(tc, options->event_rate);
	flows = bpf_object__find_map_by_name(tc->object, "lat_flows");
	if (r == 0 && !flows)
		r = -ENOENT;
	if (r == 0 && tc->maps[TC_FLOWS] < 0 && options->flows)
		r = bpf_map__set_max_entries(flows, options->flows);
	if (r == 0)
		r = choose_unix(tc);
	for (int i = 0; r == 0 && i < TC_MAPS; i++)
		if (tc->maps[i] >= 0)
			r = bpf_map__reuse_fd(bpf_object__find_map_by_name(tc->object, lat_tc_map_names[i]),
				tc->maps[i]);
	if (r == 0)
		r = bpf_object__load(tc->object);
	for (int i = 0; r == 0 && i < TC_MAPS; i++) {
		lat_close(&tc->maps[i]);
		tc->maps[i] = fcntl(bpf_object__find_map_fd_by_name(tc->object, lat_tc_map_names[i]), F_DUPFD_CLOEXEC, 3);
		if (tc->maps[i] < 0)
			r = -errno;
	}
	for (int i = 0; r == 0 && i < TC_DIRS; i++)
		tc->progs[i] = bpf_program__fd(bpf_object__find_program_by_name(tc->object, programs[i]));
	return r;
}

static int load(struct lat_tc *tc, const struct lat_tc_options *options)
{
	return lat_tc_load(tc, options, "tc", prog_names);
}

uint32_t lat_tc_stripes(void)
{
	int cpus = libbpf_num_possible_cpus();
	uint32_t n = 1;

	while (n < MOST_STRIPES && (int)n < cpus)
		n *= 2;
	return n;
}

/* Does a packet of the device begin with an Ethernet header? */
static int find_link(struct lat_tc *tc)
{
	lat_autoclose int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct ifreq ifr = { 0 };

	tc->ifindex = if_nametoindex(tc->device);
	if (!tc->ifindex)
		return -ENODEV;
	if (fd < 0)
		return -errno;
	memcpy(ifr.ifr_name, tc->device, sizeof(ifr.ifr_name));
	if (ioctl(fd, SIOCGIFHWADDR, &ifr) < 0)
		return -errno;
	tc->ether = ifr.ifr_hwaddr.sa_family == ARPHRD_ETHER || ifr.ifr_hwaddr.sa_family == ARPHRD_LOOPBACK;
	return 0;
}

/* ---- taking over ---- */

static void close_maps(struct lat_tc *tc)
{
	for (int i = 0; i < TC_MAPS; i++)
		lat_close(&tc->maps[i]);
}

/* Opens the slots' maps; where we may not, counters wait for the next generation. */
static void open_slots(struct lat_tc *tc)
{
	for (uint32_t s = 1; s <= LAT_TC_SLOTS; s++) {
		uint32_t id;

		if (bpf_map_lookup_elem(tc->maps[TC_DATA_SLOTS], &s, &id) == 0)
			tc->slots[s].data = bpf_map_get_fd_by_id(id);
		if (tc->slots[s].data < 0)
			tc->slots[s].data = -1;
		lat_tc_slot_map(&tc->slots[s]);
	}
}

/* 1: the maps of a dead one are open; 0: there is nothing (worth) to take over. */
static int take_over(struct lat_tc *tc, bool adopt)
{
	uint32_t zero = 0;
	int config = lat_tc_pin_get(tc, lat_tc_map_names[TC_CONFIG]), r = 0;

	if (config == -ENOENT) { /* whoever made the directory came to nothing */
		lat_tc_unpin_all(tc);
		return 0;
	}
	if (config < 0)
		return config;
	if (!adopt) {
		lat_tc_say(tc, "enforcement of an earlier agent is in force there");
		close(config);
		return -EEXIST;
	}
	memset(&tc->config, 0, sizeof(tc->config));
	if (bpf_map_lookup_elem(config, &zero, &tc->config) < 0)
		r = -errno;
	close(config);
	if (r < 0)
		return r;
	if (tc->config.ifindex != tc->ifindex) {
		lat_tc_say(tc, "what was pinned is of a device that is gone");
		lat_tc_unpin_all(tc);
		return 0;
	}
	if (tc->config.abi != LAT_TC_ABI) {
		lat_tc_say(tc, "the pinned maps have version %u, not %u: they hold until the policy is in new ones",
			tc->config.abi, LAT_TC_ABI);
		tc->deferred = true;
		return 1;
	}
	for (int i = 0; i < TC_MAPS; i++) {
		tc->maps[i] = lat_tc_pin_get(tc, lat_tc_map_names[i]);
		if (tc->maps[i] < 0) {
			r = tc->maps[i];
			tc->maps[i] = -1;
			close_maps(tc);
			return r;
		}
	}
	return 1;
}

/* ---- opening and closing ---- */

static struct lat_tc *new_tc(char *say)
{
	struct lat_tc *tc = calloc(1, sizeof(*tc));

	if (!tc)
		return NULL;
	tc->say = say;
	tc->lock = tc->group.fd = tc->group.answers = -1;
	for (int i = 0; i < TC_MAPS; i++)
		tc->maps[i] = -1;
	for (int i = 0; i < TC_DIRS; i++)
		tc->links[i] = tc->progs[i] = -1;
	for (uint32_t i = 0; i <= LAT_TC_SLOTS; i++)
		tc->slots[i].lpm = tc->slots[i].data = -1;
	pthread_mutex_init(&tc->mutex, NULL);
	return tc;
}

static int write_config(struct lat_tc *tc)
{
	uint32_t zero = 0;

	return bpf_map_update_elem(tc->maps[TC_CONFIG], &zero, &tc->config, BPF_ANY) < 0 ? -errno : 0;
}

/* A word that a question is known by. */
static int draw_words(struct lat_tc *tc)
{
	if (getrandom(&tc->ask_mark, 4, 0) != 4 || getrandom(&tc->ask_word, 4, 0) != 4)
		return -EIO;
	tc->ask_mark |= 1; /* 0 is nobody */
	return 0;
}

static int start(struct lat_tc *tc, const struct lat_tc_options *options)
{
	uint64_t netns;
	int r = draw_words(tc);

	if (r < 0)
		return r;
	if (options->cgroup.path)
		return lat_tc_group_start(tc, options);
	r = find_link(tc);
	if (r < 0) {
		lat_tc_say(tc, "there is no device %s", tc->device);
		return r;
	}
	r = lat_tc_dir_open(tc, options->pins);
	if (r < 0)
		return r;
	tc->adopted = !tc->made_dir; /* until we know better: a failure must not remove what is in force */
	r = take_over(tc, options->adopt);
	if (r < 0)
		return r;
	tc->adopted = r > 0;
	if (!tc->adopted || tc->deferred) {
		struct lat_tc_config old = tc->config;

		tc->config = (struct lat_tc_config){ .abi = LAT_TC_ABI, .ifindex = tc->ifindex, .stripes = lat_tc_stripes() };
		if (tc->deferred) {
			tc->config.tcx = old.tcx;
			tc->config.made_qdisc = old.made_qdisc;
		}
		r = lat_tc_netns(&netns);
		if (r < 0)
			return r;
		tc->config.netns = netns;
	}
	r = load(tc, options);
	if (r < 0) {
		lat_tc_say(tc, "the kernel did not take the programs: %s", strerror(-r));
		return r;
	}
	if (tc->adopted && !tc->deferred) {
		open_slots(tc);
		r = lat_tc_replace(tc);
		return r < 0 ? r : lat_tc_overlay(tc, NULL, 0); /* the temporary rules went with who made them */
	}
	if (tc->deferred)
		return 0;
	r = write_config(tc);
	if (r == 0)
		r = lat_tc_pin_all(tc);
	if (r == 0)
		r = lat_tc_attach(tc, options->no_tcx);
	return r < 0 ? r : write_config(tc);
}

/* Lets go of what the process holds. */
static void release(struct lat_tc *tc)
{
	lat_tc_end_grace(tc);
	for (uint32_t i = 0; i <= LAT_TC_SLOTS; i++)
		lat_tc_slot_close(&tc->slots[i]);
	for (int i = 0; i < TC_DIRS; i++)
		lat_close(&tc->links[i]);
	close_maps(tc);
	bpf_object__close(tc->object);
	lat_close(&tc->lock);
	lat_close(&tc->group.fd);
	lat_close(&tc->group.answers);
	pthread_mutex_destroy(&tc->mutex);
	free(tc);
}

int lat_tc_open(const struct lat_tc_options *options, struct lat_tc **out, char say[LAT_TC_SAY])
{
	struct lat_tc *tc;
	int r;

	if (say)
		say[0] = '\0';
	if (!options->cgroup.path && strlen(options->device) >= sizeof(tc->device))
		return -ENODEV;
	tc = new_tc(say);
	if (!tc)
		return -ENOMEM;
	if (!options->cgroup.path)
		strcpy(tc->device, options->device);
	r = start(tc, options);
	tc->say = NULL;
	if (r < 0) {
		if (!tc->adopted && (tc->lock >= 0 || tc->group.fd >= 0) && r != -EEXIST)
			lat_tc_close(tc, false);
		else
			release(tc);
		return r;
	}
	*out = tc;
	return 0;
}

void lat_tc_close(struct lat_tc *tc, bool keep)
{
	if (!tc)
		return;
	if (!keep && tc->group.fd >= 0) {
		lat_tc_group_detach(tc);
	} else if (!keep) {
		lat_tc_detach(tc);
		lat_tc_unpin_all(tc);
		lat_tc_dir_remove(tc);
	}
	release(tc);
}

int lat_tc_forget(const char *pins, const char *device, char *say)
{
	uint32_t zero = 0;
	struct lat_tc *tc;
	int r, config;

	if (strlen(device) >= sizeof(tc->device))
		return -ENODEV;
	tc = new_tc(say);
	if (!tc)
		return -ENOMEM;
	strcpy(tc->device, device);
	tc->ifindex = if_nametoindex(device);
	r = lat_tc_dir_open(tc, pins);
	if (r < 0) {
		release(tc);
		return r;
	}
	config = lat_tc_pin_get(tc, lat_tc_map_names[TC_CONFIG]);
	if (config >= 0) {
		if (bpf_map_lookup_elem(config, &zero, &tc->config) == 0 && tc->config.ifindex == tc->ifindex)
			lat_tc_reopen(tc);
		close(config);
	}
	lat_tc_close(tc, false);
	return 0;
}

/* Can a program be put on a device? In a namespace of a child's own; whoever may not make one is told by the device. */
static int probe_hooks(struct lat_tc *tc)
{
	struct lat_cap tcx, clsact;

	if (lat_cap_try(lat_cap_tcx, 10000, &tcx) < 0 || tcx.error == 0 ||
		lat_cap_try(lat_cap_clsact, 10000, &clsact) < 0 || clsact.error == 0 || clsact.error == EPERM)
		return 0;
	lat_tc_say(tc, "the kernel has neither TCX (%s) nor clsact (%s)", strerror(tcx.error), strerror(clsact.error));
	return -clsact.error;
}

int lat_tc_probe(char say[LAT_TC_SAY])
{
	struct lat_tc_options options = { .flows = 64 };
	struct lat_tc *tc = new_tc(say);
	int r;

	if (say)
		say[0] = '\0';
	if (!tc)
		return -ENOMEM;
	tc->config.stripes = 1;
	r = load(tc, &options);
	if (r < 0)
		lat_tc_say(tc, "the kernel did not take the programs: %s", strerror(-r));
	else
		r = probe_hooks(tc);
	release(tc);
	return r;
}
