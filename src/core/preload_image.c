/* See preload_image.h. The parts lie one after another, each aligned to 16 bytes. */
#include "core/preload_image.h"
#include "core/tables_parts.h"
#include "base/mem.h"
#include <string.h>
#include <sys/mman.h>
#include <fcntl.h>

/* sandbox/intercept/table.c reads these numbers without seeing the headers. */
_Static_assert(LAT_ACTION_DENY == 0 && LAT_ACTION_ALLOW == 1 && LAT_ACTION_DROP == 2 && LAT_ACTION_ASK == 3 &&
	LAT_ACTION_AUDIT == 4, "actions are numbers in the image");
_Static_assert(LAT_DIR_OUT == 0 && LAT_DIR_IN == 1 && LAT_TREES == LAT_SHIM_TREES, "so are directions");
_Static_assert((int)LAT_LIST_TCP == LAT_SHIM_TCP && (int)LAT_LIST_UDP == LAT_SHIM_UDP &&
	(int)LAT_LIST_COUNT == LAT_SHIM_LISTS, "and lists");
_Static_assert(sizeof(lat_key) == sizeof(lat_shim_key) && LAT_NO_RULE == LAT_SHIM_NO_RULE, "and keys");

/* Room for `count` elements at the end. */
static uint32_t room(uint64_t *size, size_t count, size_t each)
{
	uint64_t at = *size;

	*size += (count * each + 15) & ~15ull;
	return (uint32_t)at;
}

static void fill_rules(const struct lat_policy_spec *spec, struct lat_shim_rule *out)
{
	out[0].action = spec->default_action;
	out[0].ask = spec->has_connect;
	for (size_t i = 0; i < spec->rule_count; i++) {
		const struct lat_rule *r = &spec->rules[i];

		out[i + 1] = (struct lat_shim_rule){ .action = r->action, .err = r->err,
			.ask = r->action == LAT_ACTION_ASK || r->rate != 0 };
	}
}

static void fill_nodes(const struct lat_tables *t, struct lat_shim_node *out)
{
	for (size_t i = 0; i < t->node_count; i++) {
		memcpy(out[i].lists, t->nodes[i].lists, sizeof(out[i].lists));
		out[i].parent = t->nodes[i].parent;
		out[i].above = t->nodes[i].above;
	}
}

int lat_preload_image(const struct lat_policy *policy, bool ask_all, struct lat_shim_image **out)
{
	const struct lat_policy_spec *spec = &policy->spec;
	const struct lat_tables *t = policy->tables;
	struct lat_shim_image head = { .magic = LAT_SHIM_MAGIC, .abi = LAT_SHIM_ABI, .generation = policy->generation,
		.rule_count = (uint32_t)spec->rule_count, .node_count = (uint32_t)t->node_count,
		.word_count = (uint32_t)t->lists.used, .least_name = lat_names_least(policy->names), .ask_all = ask_all };
	uint64_t size = (sizeof(head) + 15) & ~15ull;
	char *at;

	head.rules = room(&size, spec->rule_count + 1, sizeof(struct lat_shim_rule));
	head.nodes = room(&size, t->node_count, sizeof(struct lat_shim_node));
	head.words = room(&size, t->lists.used, sizeof(uint32_t));
	for (int i = 0; i < LAT_TREES; i++) {
		head.trees[i].count = (uint32_t)t->trees[i].count;
		head.trees[i].starts = room(&size, t->trees[i].count, sizeof(lat_shim_key));
		head.trees[i].owners = room(&size, t->trees[i].count, sizeof(uint32_t));
	}
	if (size > UINT32_MAX)
		return -E2BIG;
	head.size = (uint32_t)size;
	at = aligned_alloc(16, size);
	if (!at)
		return -ENOMEM;
	memset(at, 0, size);
	memcpy(at, &head, sizeof(head));
	fill_rules(spec, (struct lat_shim_rule *)(at + head.rules));
	fill_nodes(t, (struct lat_shim_node *)(at + head.nodes));
	memcpy(at + head.words, t->lists.words, t->lists.used * sizeof(uint32_t));
	for (int i = 0; i < LAT_TREES; i++) {
		memcpy(at + head.trees[i].starts, t->trees[i].starts, t->trees[i].count * sizeof(lat_shim_key));
		memcpy(at + head.trees[i].owners, t->trees[i].owners, t->trees[i].count * sizeof(uint32_t));
	}
	*out = (struct lat_shim_image *)at;
	return 0;
}

int lat_preload_memfd(const struct lat_policy *policy, bool ask_all, uint32_t *size)
{
	lat_autofree struct lat_shim_image *image = NULL;
	lat_autoclose int fd = -1;
	int r = lat_preload_image(policy, ask_all, &image);

	if (r < 0)
		return r;
	fd = memfd_create("lattice-tables", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (fd < 0)
		return -errno;
	for (size_t done = 0; done < image->size;) {
		ssize_t n = write(fd, (char *)image + done, image->size - done);

		if (n <= 0)
			return n < 0 ? -errno : -EIO;
		done += (size_t)n;
	}
	if (fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_SEAL) < 0)
		return -errno;
	*size = image->size;
	return lat_take_fd(&fd);
}
