/* Generations of the tc enforcer: new maps beside the live ones, one word that makes them count, and back. */
#include "kernel/pro/tc_parts.h"
#include "base/mem.h"
#include "base/signals.h"
#include <string.h>
#include <linux/membarrier.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define BATCH 65536u

/* ---- the live word ---- */

int lat_tc_live_get(struct lat_tc *tc, uint64_t *word)
{
	uint32_t zero = 0;

	return bpf_map_lookup_elem(tc->maps[TC_LIVE], &zero, word) < 0 ? -errno : 0;
}

int lat_tc_live_put(struct lat_tc *tc, uint64_t word)
{
	uint32_t zero = 0;

	return bpf_map_update_elem(tc->maps[TC_LIVE], &zero, &word, BPF_ANY) < 0 ? -errno : 0;
}

static uint32_t next_stamp(uint64_t word)
{
	uint32_t stamp = LAT_TC_LIVE_STAMP(word) + 1;

	return stamp ? stamp : 1;
}

/* ---- slots ---- */

void lat_tc_slot_close(struct tc_slot *slot)
{
	if (slot->mapped)
		munmap(slot->mapped, (size_t)slot->rows * LAT_TC_ROW);
	slot->mapped = NULL;
	lat_close(&slot->lpm);
	lat_close(&slot->data);
	slot->rows = 0;
}

void lat_tc_slot_map(struct tc_slot *slot)
{
	struct bpf_map_info info = { 0 };
	uint32_t size = sizeof(info);
	void *mapped;

	if (slot->data < 0 || bpf_obj_get_info_by_fd(slot->data, &info, &size) < 0)
		return;
	mapped = mmap(NULL, (size_t)info.max_entries * LAT_TC_ROW, PROT_READ, MAP_SHARED, slot->data, 0);
	if (mapped == MAP_FAILED)
		return;
	slot->mapped = mapped;
	slot->rows = info.max_entries;
}

static int fill_lpm(int fd, const struct lat_tc_image *image)
{
	size_t at = 0;
	bool batch = true;

	while (at < image->prefix_count) {
		uint32_t n = image->prefix_count - at < BATCH ? (uint32_t)(image->prefix_count - at) : BATCH;

		if (batch && bpf_map_update_batch(fd, image->prefixes + at, image->nodes + at, &n, NULL) == 0) {
			at += n;
			continue;
		}
		if (batch && errno != EINVAL && errno != ENOTSUP && errno != EOPNOTSUPP && errno != 524)
			return -errno;
		batch = false; /* a kernel whose tries have no batches */
		if (bpf_map_update_elem(fd, image->prefixes + at, image->nodes + at, BPF_ANY) < 0)
			return -errno;
		at++;
	}
	return bpf_map_freeze(fd) < 0 ? -errno : 0;
}

static int make_lpm(const struct lat_tc_image *image, int *out)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_NO_PREALLOC);
	int fd = bpf_map_create(BPF_MAP_TYPE_LPM_TRIE, "lat_lpm", sizeof(struct lat_tc_prefix), sizeof(struct lat_tc_node),
		image->prefix_count ? (uint32_t)image->prefix_count : 1, &opts);

	if (fd < 0)
		return -errno;
	*out = fd;
	return 0;
}

static int make_data(struct lat_tc *tc, const struct lat_tc_image *image, struct tc_slot *slot)
{
	LIBBPF_OPTS(bpf_map_create_opts, opts, .map_flags = BPF_F_INNER_MAP | BPF_F_MMAPABLE);
	uint64_t rows = image->row_count + ((uint64_t)image->rule_count + 1) * tc->config.stripes;
	struct lat_tc_meta meta = {
		.generation = image->generation, .rule_count = image->rule_count, .rules_at = image->rules_at,
		.counts_at = image->row_count, .stripes = tc->config.stripes, .keep = image->keep,
		.asks = image->asks, .hosts = image->hosts, .hosts_at = image->hosts_at, .rows = (uint32_t)rows,
	};
	lat_autoclose int fd = -1;
	unsigned char *mapped;

	if (rows > UINT32_MAX / 2)
		return -E2BIG;
	fd = bpf_map_create(BPF_MAP_TYPE_ARRAY, "lat_data", 4, LAT_TC_ROW, (uint32_t)rows, &opts);
	if (fd < 0)
		return -errno;
	mapped = mmap(NULL, rows * LAT_TC_ROW, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mapped == MAP_FAILED)
		return -errno;
	memcpy(mapped, image->rows, (size_t)image->row_count * LAT_TC_ROW);
	memcpy(mapped, &meta, sizeof(meta));
	munmap(mapped, rows * LAT_TC_ROW); /* or it cannot be frozen */
	if (bpf_map_freeze(fd) < 0)
		return -errno;
	slot->data = lat_take_fd(&fd);
	lat_tc_slot_map(slot);
	return 0;
}

/* Signals are for other threads: a caller may begin before it has blocked its own, and one that meets ours open kills. */
static int start_thread(pthread_t *thread, void *(*run)(void *), void *arg)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	sigdelset(&all, LAT_SIGNAL_PRIVILEGE);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(thread, NULL, run, arg);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	return -r;
}

/* A map on its way into its slot, or the one in it on its way out (fd -1). The kernel waits there until no program can be at
 * what was in it, some 10 ms or more: so the two go beside each other and while the trie is filled, which nobody looks at yet. */
struct put {
	int slots, fd, status;
	uint32_t at;
	bool beside;
	pthread_t thread;
};

static void *run_put(void *user)
{
	struct put *put = user;

	if (put->fd < 0)
		bpf_map_delete_elem(put->slots, &put->at);
	else if (bpf_map_update_elem(put->slots, &put->at, &put->fd, BPF_ANY) < 0)
		put->status = -errno;
	return NULL;
}

static void begin_put(struct put *put)
{
	put->beside = start_thread(&put->thread, run_put, put) == 0;
	if (!put->beside)
		run_put(put);
}

static int end_put(struct put *put)
{
	if (put->beside)
		pthread_join(put->thread, NULL);
	return put->status;
}

/* ---- grace ---- */

/* A program reads the live word first and looks into that slot then: what was in force must stay there until each that began
 * before the flip has ended. */
static void *run_grace(void *unused)
{
	const struct timespec some = { .tv_nsec = 50000000 };

	/* With one CPU it waits for nothing. */
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) < 0 || sysconf(_SC_NPROCESSORS_ONLN) < 2)
		nanosleep(&some, NULL);
	return NULL;
}

static void begin_grace(struct lat_tc *tc)
{
	lat_tc_end_grace(tc);
	tc->graces = start_thread(&tc->grace, run_grace, NULL) == 0;
	if (!tc->graces)
		run_grace(NULL);
}

void lat_tc_end_grace(struct lat_tc *tc)
{
	if (tc->graces)
		pthread_join(tc->grace, NULL);
	tc->graces = false;
}

static int fill_slot(struct lat_tc *tc, const struct lat_tc_image *image, uint32_t at, struct tc_slot *slot)
{
	struct put data = { .slots = tc->maps[TC_DATA_SLOTS], .at = at }, lpm = { .slots = tc->maps[TC_LPM_SLOTS], .at = at };
	int r = make_data(tc, image, slot), status[2];

	if (r == 0)
		r = make_lpm(image, &slot->lpm);
	if (r < 0)
		return r;
	data.fd = slot->data;
	lpm.fd = slot->lpm;
	lat_tc_end_grace(tc);
	begin_put(&data);
	begin_put(&lpm);
	r = fill_lpm(slot->lpm, image);
	status[0] = end_put(&data);
	status[1] = end_put(&lpm);
	return r < 0 ? r : status[0] < 0 ? status[0] : status[1];
}

int lat_tc_prepare(struct lat_tc *tc, const struct lat_tc_image *image, char say[LAT_TC_SAY])
{
	struct tc_slot slot = { .lpm = -1, .data = -1 };
	uint64_t word;
	uint32_t at;
	int r = lat_tc_live_get(tc, &word);

	if (say)
		say[0] = '\0';
	tc->prepared = 0;
	if (r < 0)
		return r;
	at = LAT_TC_LIVE_SLOT(word) == 1 ? 2 : 1;
	r = fill_slot(tc, image, at, &slot);
	if (r < 0) {
		lat_tc_slot_close(&slot);
		return r;
	}
	pthread_mutex_lock(&tc->mutex);
	lat_tc_slot_close(&tc->slots[at]);
	tc->slots[at] = slot;
	pthread_mutex_unlock(&tc->mutex);
	tc->prepared = at;
	tc->prepared_pins = 0;
	return lat_tc_pins(tc, true, NULL, NULL, 0); /* those of the generation that had the slot before */
}

/* ---- pins ---- */

static int drop_pin(struct lat_tc *tc, const struct lat_tc_pin_key *key)
{
	return bpf_map_delete_elem(tc->maps[TC_PINS], key) < 0 && errno != ENOENT ? -errno : 0;
}

/* Removes the slot's pins that the list does not have. A key may be met twice while others are removed: no harm. */
static int drop_pins(struct lat_tc *tc, uint32_t slot, const struct lat_addr *addrs, size_t count)
{
	struct lat_tc_pin_key key, next, *from = NULL;
	int r = 0;

	while (r == 0 && bpf_map_get_next_key(tc->maps[TC_PINS], from, &next) == 0) {
		bool keep = next.slot != slot;

		for (size_t i = 0; !keep && i < count; i++)
			keep = memcmp(next.addr, addrs[i].b, 16) == 0;
		if (!keep) {
			r = drop_pin(tc, &next);
			continue; /* from the same place again */
		}
		key = next;
		from = &key;
	}
	return r;
}

/* Whether packets have to look for pins. */
static int say_pins(struct lat_tc *tc, bool some)
{
	uint64_t word;
	int r;

	pthread_mutex_lock(&tc->mutex);
	r = lat_tc_live_get(tc, &word);
	if (r == 0)
		r = lat_tc_live_put(tc, LAT_TC_LIVE(LAT_TC_LIVE_SLOT(word), LAT_TC_LIVE_OVERLAY(word), some,
			LAT_TC_LIVE_STAMP(word)));
	pthread_mutex_unlock(&tc->mutex);
	return r;
}

int lat_tc_pins(struct lat_tc *tc, bool prepared, const struct lat_addr *addrs, const struct lat_tc_pin *pins, size_t count)
{
	struct lat_tc_pin_key key;
	uint64_t word;
	uint32_t slot;
	int r = lat_tc_live_get(tc, &word);

	if (r < 0)
		return r;
	slot = prepared ? tc->prepared : LAT_TC_LIVE_SLOT(word);
	if (!slot)
		return -ENOENT;
	r = drop_pins(tc, slot, addrs, count);
	for (size_t i = 0; r == 0 && i < count; i++) {
		memcpy(key.addr, addrs[i].b, 16);
		key.slot = slot;
		if (bpf_map_update_elem(tc->maps[TC_PINS], &key, &pins[i], BPF_ANY) < 0)
			r = -errno;
	}
	if (r < 0)
		return r;
	if (prepared) {
		tc->prepared_pins = count != 0;
		return 0;
	}
	return say_pins(tc, count != 0);
}

int lat_tc_pin(struct lat_tc *tc, const struct lat_addr *addr, const struct lat_tc_pin *pin)
{
	struct lat_tc_pin_key key = { 0 };
	uint64_t word;
	int r = lat_tc_live_get(tc, &word);

	if (r < 0)
		return r;
	memcpy(key.addr, addr->b, 16);
	key.slot = LAT_TC_LIVE_SLOT(word);
	if (!key.slot)
		return -ENOENT;
	if (!pin->count && !pin->bound)
		return drop_pin(tc, &key);
	if (bpf_map_update_elem(tc->maps[TC_PINS], &key, pin, BPF_ANY) < 0)
		return -errno;
	return LAT_TC_LIVE_PINS(word) ? 0 : say_pins(tc, true);
}

/* ---- in force ---- */

/* Hooks and pins of an agent with other maps give way to ours, now that ours hold the policy. */
static int take_place(struct lat_tc *tc)
{
	uint32_t zero = 0;
	int r = lat_tc_replace(tc);

	for (int i = 0; r == 0 && i < TC_MAPS; i++) {
		lat_tc_pin_drop(tc, lat_tc_map_names[i]);
		r = lat_tc_pin_put(tc, lat_tc_map_names[i], tc->maps[i]);
	}
	if (r == 0 && bpf_map_update_elem(tc->maps[TC_CONFIG], &zero, &tc->config, BPF_ANY) < 0)
		r = -errno;
	if (r == 0)
		tc->deferred = false;
	return r;
}

int lat_tc_flip(struct lat_tc *tc)
{
	uint64_t word;
	int r;

	if (!tc->prepared)
		return -ENOENT;
	pthread_mutex_lock(&tc->mutex);
	r = lat_tc_live_get(tc, &word);
	if (r == 0)
		r = lat_tc_live_put(tc, LAT_TC_LIVE(tc->prepared, LAT_TC_LIVE_OVERLAY(word), tc->prepared_pins, next_stamp(word)));
	if (r == 0) {
		tc->before = word;
		tc->prepared = 0;
	}
	pthread_mutex_unlock(&tc->mutex);
	/* Before the first there was nothing to be at; and who starts a run makes processes then, which wants no thread. */
	if (r == 0 && LAT_TC_LIVE_SLOT(word))
		begin_grace(tc);
	return r == 0 && tc->deferred ? take_place(tc) : r;
}

int lat_tc_flip_back(struct lat_tc *tc)
{
	uint64_t word;
	int r;

	pthread_mutex_lock(&tc->mutex);
	r = lat_tc_live_get(tc, &word);
	if (r == 0)
		r = lat_tc_live_put(tc, LAT_TC_LIVE(LAT_TC_LIVE_SLOT(tc->before), LAT_TC_LIVE_OVERLAY(word),
			LAT_TC_LIVE_PINS(tc->before), next_stamp(word)));
	pthread_mutex_unlock(&tc->mutex);
	begin_grace(tc);
	return r;
}

void lat_tc_settle(struct lat_tc *tc)
{
	struct put data = { .slots = tc->maps[TC_DATA_SLOTS], .fd = -1 }, lpm = { .slots = tc->maps[TC_LPM_SLOTS], .fd = -1 };
	uint64_t word;

	tc->prepared = 0;
	lat_tc_end_grace(tc);
	if (lat_tc_live_get(tc, &word) < 0)
		return;
	for (uint32_t s = 1; s <= LAT_TC_SLOTS; s++) {
		if (s == LAT_TC_LIVE_SLOT(word))
			continue;
		data.at = lpm.at = s;
		begin_put(&data);
		begin_put(&lpm);
		end_put(&data);
		end_put(&lpm);
		pthread_mutex_lock(&tc->mutex);
		lat_tc_slot_close(&tc->slots[s]);
		pthread_mutex_unlock(&tc->mutex);
		drop_pins(tc, s, NULL, 0);
	}
}

int lat_tc_overlay(struct lat_tc *tc, const struct lat_tc_temp *temps, size_t count)
{
	struct lat_tc_overlay overlay = { .count = (uint32_t)count };
	uint32_t row = 0;
	uint64_t word;
	int r = 0;

	if (count > (tc->group.fd >= 0 ? LAT_TC_OVERLAY_GROUP : LAT_TC_OVERLAY_MOST))
		return -E2BIG;
	pthread_mutex_lock(&tc->mutex);
	if (count) {
		memcpy(overlay.temps, temps, count * sizeof(*temps));
		tc->overlay_next = tc->overlay_next % (LAT_TC_OVERLAYS - 1) + 1;
		row = tc->overlay_next;
		if (bpf_map_update_elem(tc->maps[TC_OVERLAYS], &row, &overlay, BPF_ANY) < 0)
			r = -errno;
	}
	if (r == 0)
		r = lat_tc_live_get(tc, &word);
	if (r == 0)
		r = lat_tc_live_put(tc, LAT_TC_LIVE(LAT_TC_LIVE_SLOT(word), row, LAT_TC_LIVE_PINS(word), next_stamp(word)));
	pthread_mutex_unlock(&tc->mutex);
	return r;
}
