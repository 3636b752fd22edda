/* Keys, configurations and their difference, of wireguard.h. */
#include "kernel/wireguard.h"
#include "base/mem.h"
#include <fcntl.h>
#include <sodium.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/stat.h>

/* ---- keys ---- */

int lat_wg_key_parse(const char *text, uint8_t key[LAT_WG_KEY])
{
	uint8_t bytes[LAT_WG_KEY];
	const char *end;
	size_t n;

	if (strlen(text) != LAT_WG_KEY_TEXT - 1 ||
		sodium_base642bin(bytes, sizeof(bytes), text, LAT_WG_KEY_TEXT - 1, NULL, &n, &end,
			sodium_base64_VARIANT_ORIGINAL) != 0 || n != sizeof(bytes) || *end) {
		explicit_bzero(bytes, sizeof(bytes));
		return -EINVAL;
	}
	memcpy(key, bytes, sizeof(bytes));
	explicit_bzero(bytes, sizeof(bytes));
	return 0;
}

void lat_wg_key_format(const uint8_t key[LAT_WG_KEY], char text[LAT_WG_KEY_TEXT])
{
	sodium_bin2base64(text, LAT_WG_KEY_TEXT, key, LAT_WG_KEY, sodium_base64_VARIANT_ORIGINAL);
}

void lat_wg_key_generate(uint8_t private_key[LAT_WG_KEY])
{
	randombytes_buf(private_key, LAT_WG_KEY);
	private_key[0] &= 248;
	private_key[31] = (uint8_t)((private_key[31] & 127) | 64);
}

int lat_wg_key_public(const uint8_t private_key[LAT_WG_KEY], uint8_t public_key[LAT_WG_KEY])
{
	return crypto_scalarmult_base(public_key, private_key) == 0 ? 0 : -EINVAL;
}

int lat_wg_key_load(const char *path, uint8_t key[LAT_WG_KEY])
{
	lat_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	char text[LAT_WG_KEY_TEXT + 8];
	struct stat st;
	ssize_t n;
	int r;

	if (fd < 0 || fstat(fd, &st) < 0)
		return -errno;
	if (!S_ISREG(st.st_mode))
		return -EBADMSG;
	if (st.st_mode & (S_IRWXG | S_IRWXO))
		return -EPERM;
	if (st.st_uid != 0 && st.st_uid != geteuid())
		return -EKEYREJECTED;
	if (prctl(PR_SET_DUMPABLE, 0) < 0)
		return -errno;
	n = read(fd, text, sizeof(text) - 1);
	if (n < 0)
		return -errno;
	while (n > 0 && strchr(" \r\n", text[n - 1]))
		n--;
	text[n] = 0;
	r = strlen(text) == (size_t)n && lat_wg_key_parse(text, key) == 0 ? 0 : -EBADMSG;
	explicit_bzero(text, sizeof(text));
	return r;
}

int lat_wg_key_create(const char *path, uint8_t public_key[LAT_WG_KEY])
{
	lat_autoclose int fd = -1;
	uint8_t key[LAT_WG_KEY];
	char text[LAT_WG_KEY_TEXT];
	int r;

	if (prctl(PR_SET_DUMPABLE, 0) < 0)
		return -errno;
	fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
	if (fd < 0)
		return -errno;
	lat_wg_key_generate(key);
	r = lat_wg_key_public(key, public_key);
	lat_wg_key_format(key, text);
	text[LAT_WG_KEY_TEXT - 1] = '\n';
	if (r == 0 && write(fd, text, sizeof(text)) != sizeof(text))
		r = errno ? -errno : -EIO;
	explicit_bzero(key, sizeof(key));
	explicit_bzero(text, sizeof(text));
	if (r < 0)
		unlink(path);
	return r;
}

/* ---- configurations ---- */

int lat_wg_endpoint_parse(const char *text, struct lat_addr *addr, uint16_t *port)
{
	const char *colon = strrchr(text, ':'), *from = text, *to = colon, *p;
	char host[LAT_ADDR_TEXT];
	struct lat_addr a;
	uint32_t n = 0;

	if (!colon || !colon[1])
		return -EINVAL;
	for (p = colon + 1; *p >= '0' && *p <= '9' && n <= UINT16_MAX; p++)
		n = n * 10 + (uint32_t)(*p - '0');
	if (*p || n > UINT16_MAX)
		return -EINVAL;
	if (*text == '[') {
		if (colon == text || colon[-1] != ']')
			return -EINVAL;
		from++;
		to--;
	}
	if (to <= from || (size_t)(to - from) >= sizeof(host))
		return -EINVAL;
	memcpy(host, from, (size_t)(to - from));
	host[to - from] = 0;
	host[strcspn(host, "%")] = 0; /* the zone of a link-local one */
	if ((*text == '[') != (strchr(host, ':') != NULL) || lat_addr_parse(host, &a) < 0)
		return -EINVAL;
	*addr = a;
	*port = (uint16_t)n;
	return 0;
}

struct lat_wg_peer *lat_wg_add_peer(struct lat_wg *wg, const uint8_t key[LAT_WG_KEY])
{
	struct lat_wg_peer *peer;

	if (wg->count == wg->room) {
		size_t room = wg->room ? wg->room * 2 : 8;
		struct lat_wg_peer *peers = calloc(room, sizeof(*peers)); /* realloc would leave preshared keys behind */

		if (!peers)
			return NULL;
		if (wg->peers) {
			memcpy(peers, wg->peers, wg->count * sizeof(*peers));
			explicit_bzero(wg->peers, wg->count * sizeof(*peers));
		}
		free(wg->peers);
		wg->peers = peers;
		wg->room = room;
	}
	peer = &wg->peers[wg->count++];
	memset(peer, 0, sizeof(*peer));
	memcpy(peer->key, key, LAT_WG_KEY);
	return peer;
}

int lat_wg_add_allowed(struct lat_wg_peer *peer, const struct lat_prefix *prefix)
{
	if (peer->allowed_count == peer->allowed_room) {
		size_t room = peer->allowed_room ? peer->allowed_room * 2 : 4;
		struct lat_prefix *allowed = reallocarray(peer->allowed, room, sizeof(*allowed));

		if (!allowed)
			return -ENOMEM;
		peer->allowed = allowed;
		peer->allowed_room = room;
	}
	peer->allowed[peer->allowed_count++] = *prefix;
	return 0;
}

void lat_wg_wipe(struct lat_wg *wg)
{
	for (size_t i = 0; i < wg->count; i++)
		free(wg->peers[i].allowed);
	if (wg->peers)
		explicit_bzero(wg->peers, wg->count * sizeof(*wg->peers));
	free(wg->peers);
	explicit_bzero(wg, sizeof(*wg));
}

static int compare_prefix(const void *a, const void *b)
{
	return memcmp(a, b, sizeof(struct lat_prefix));
}

/* The prefixes of a peer, sorted, to be freed; NULL: out of memory. */
static struct lat_prefix *sorted(const struct lat_wg_peer *peer)
{
	struct lat_prefix *list = calloc(peer->allowed_count + 1, sizeof(*list));

	if (list && peer->allowed_count) {
		memcpy(list, peer->allowed, peer->allowed_count * sizeof(*list));
		qsort(list, peer->allowed_count, sizeof(*list), compare_prefix);
	}
	return list;
}

/* Whether both allow the same: 1 or 0, or -ENOMEM. */
static int same_allowed(const struct lat_wg_peer *a, const struct lat_wg_peer *b)
{
	lat_autofree struct lat_prefix *in_a = NULL, *in_b = NULL;

	if (a->allowed_count != b->allowed_count)
		return 0;
	in_a = sorted(a);
	in_b = sorted(b);
	if (!in_a || !in_b)
		return -ENOMEM;
	return memcmp(in_a, in_b, a->allowed_count * sizeof(*in_a)) == 0;
}

static int compare_key(const void *a, const void *b)
{
	const struct lat_wg_peer *const *x = a, *const *y = b;

	return memcmp((*x)->key, (*y)->key, LAT_WG_KEY);
}

/* The peers in the order of their keys; NULL: out of memory. */
static const struct lat_wg_peer **index_of(const struct lat_wg *wg)
{
	const struct lat_wg_peer **list = calloc(wg->count + 1, sizeof(*list));

	for (size_t i = 0; list && i < wg->count; i++)
		list[i] = &wg->peers[i];
	if (list)
		qsort(list, wg->count, sizeof(*list), compare_key);
	return list;
}

static const struct lat_wg_peer *find(const struct lat_wg_peer **index, size_t count, const struct lat_wg_peer *like)
{
	const struct lat_wg_peer **found = bsearch(&like, index, count, sizeof(*index), compare_key);

	return found ? *found : NULL;
}

static int diff_peer(const struct lat_wg_peer *now, const struct lat_wg_peer *wanted, struct lat_wg *out)
{
	static const struct lat_wg_peer none;
	const struct lat_wg_peer *old = now ? now : &none;
	bool preshared = sodium_memcmp(old->preshared, wanted->preshared, LAT_WG_KEY) != 0;
	bool keepalive = old->keepalive != wanted->keepalive;
	int same = now ? same_allowed(now, wanted) : 0;
	struct lat_wg_peer *peer;

	if (same < 0)
		return same;
	if (now && same && !preshared && !keepalive && !wanted->set_endpoint)
		return 0;
	peer = lat_wg_add_peer(out, wanted->key);
	if (!peer)
		return -ENOMEM;
	peer->set_preshared = preshared;
	memcpy(peer->preshared, wanted->preshared, LAT_WG_KEY);
	peer->set_keepalive = keepalive;
	peer->keepalive = wanted->keepalive;
	peer->set_endpoint = wanted->set_endpoint;
	peer->endpoint = wanted->endpoint;
	peer->port = wanted->port;
	peer->replace_allowed = !same;
	for (size_t i = 0; !same && i < wanted->allowed_count; i++) {
		if (lat_wg_add_allowed(peer, &wanted->allowed[i]) < 0)
			return -ENOMEM;
	}
	return 0;
}

int lat_wg_diff(const struct lat_wg *now, const struct lat_wg *wanted, struct lat_wg *out)
{
	lat_autofree const struct lat_wg_peer **old = index_of(now), **new = index_of(wanted);
	struct lat_wg diff = { 0 };
	int r = old && new ? 0 : -ENOMEM;

	diff.set_private = wanted->set_private && sodium_memcmp(now->private_key, wanted->private_key, LAT_WG_KEY) != 0;
	if (diff.set_private)
		memcpy(diff.private_key, wanted->private_key, LAT_WG_KEY);
	diff.set_listen = wanted->set_listen && now->listen != wanted->listen;
	diff.listen = wanted->listen;
	for (size_t i = 0; r == 0 && i < now->count; i++) { /* first: what they were allowed may go to others */
		struct lat_wg_peer *gone;

		if (find(new, wanted->count, &now->peers[i]))
			continue;
		gone = lat_wg_add_peer(&diff, now->peers[i].key);
		if (gone)
			gone->remove = true;
		else
			r = -ENOMEM;
	}
	for (size_t i = 0; r == 0 && i < wanted->count; i++)
		r = diff_peer(find(old, now->count, &wanted->peers[i]), &wanted->peers[i], &diff);
	if (r < 0) {
		lat_wg_wipe(&diff);
		return r;
	}
	*out = diff;
	explicit_bzero(&diff, sizeof(diff)); /* the copy on the stack */
	return 0;
}

/* ---- devices ---- */

int lat_wg_get(const struct lat_wg_device *device, struct lat_wg *out)
{
	return device->dir >= 0 ? lat_wg_uapi_get(device->dir, device->name, out) : lat_wg_kernel_get(device->name, out);
}

int lat_wg_set(const struct lat_wg_device *device, const struct lat_wg *change)
{
	return device->dir >= 0 ? lat_wg_uapi_set(device->dir, device->name, change)
				: lat_wg_kernel_set(device->name, change);
}

int lat_wg_apply(const struct lat_wg_device *device, const struct lat_wg *wanted)
{
	struct lat_wg now = { 0 }, diff = { 0 };
	int r = lat_wg_get(device, &now);

	if (r == 0)
		r = lat_wg_diff(&now, wanted, &diff);
	if (r == 0 && (diff.set_private || diff.set_listen || diff.count))
		r = lat_wg_set(device, &diff);
	lat_wg_wipe(&diff);
	lat_wg_wipe(&now);
	return r;
}
