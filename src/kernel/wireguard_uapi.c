/* wireguard-go's control socket: one text there, one back, each ended by an empty line. */
#include "base/clock.h"
#include "base/mem.h"
#include "kernel/wireguard.h"
#include <poll.h>
#include <sodium.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define LIMIT (64u << 20)      /* of an answer: a million allowed addresses */
#define WAIT_NS 10000000000ull /* for all of an exchange */

/* ---- texts ---- */

struct text {
	char *data;
	size_t size, room;
	bool failed;
};

static void drop(struct text *t)
{
	if (t->data)
		explicit_bzero(t->data, t->room);
	free(t->data);
	*t = (struct text){ 0 };
}

/* Room for `more` bytes and an end. The old memory may hold keys: realloc would leave it as it is. */
static bool reserve(struct text *t, size_t more)
{
	size_t room = t->room ? t->room : 4096;
	char *data;

	if (t->failed || t->size + more < t->room)
		return !t->failed;
	while (room <= t->size + more)
		room *= 2;
	data = room <= LIMIT ? malloc(room) : NULL;
	if (!data) {
		t->failed = true;
		return false;
	}
	if (t->data) {
		memcpy(data, t->data, t->size);
		explicit_bzero(t->data, t->room);
	}
	free(t->data);
	t->data = data;
	t->room = room;
	return true;
}

__attribute__((format(printf, 2, 3))) static void put(struct text *t, const char *format, ...)
{
	char line[256];
	va_list args;
	int n;

	va_start(args, format);
	n = vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	if (n > 0 && (size_t)n < sizeof(line) && reserve(t, (size_t)n)) {
		memcpy(t->data + t->size, line, (size_t)n + 1);
		t->size += (size_t)n;
	}
	explicit_bzero(line, sizeof(line));
}

static void put_key(struct text *t, const char *name, const uint8_t key[LAT_WG_KEY])
{
	char hex[LAT_WG_KEY * 2 + 1];

	sodium_bin2hex(hex, sizeof(hex), key, LAT_WG_KEY);
	put(t, "%s=%s\n", name, hex);
	explicit_bzero(hex, sizeof(hex));
}

static void put_peer(struct text *t, const struct lat_wg_peer *peer)
{
	char text[LAT_ENDPOINT_TEXT];

	put_key(t, "public_key", peer->key);
	if (peer->remove) {
		put(t, "remove=true\n");
		return;
	}
	if (peer->set_preshared)
		put_key(t, "preshared_key", peer->preshared);
	if (peer->set_endpoint)
		put(t, "endpoint=%s\n", lat_endpoint_format(&peer->endpoint, peer->port, text, sizeof(text)));
	if (peer->set_keepalive)
		put(t, "persistent_keepalive_interval=%u\n", peer->keepalive);
	if (peer->replace_allowed)
		put(t, "replace_allowed_ips=true\n");
	for (size_t i = 0; i < peer->allowed_count; i++)
		put(t, "allowed_ip=%s/%u\n", lat_addr_format(&peer->allowed[i].addr, text, sizeof(text)),
			peer->allowed[i].len);
}

char *lat_wg_uapi_format(const struct lat_wg *change)
{
	struct text t = { 0 };

	put(&t, "set=1\n");
	if (change->set_private)
		put_key(&t, "private_key", change->private_key);
	if (change->set_listen)
		put(&t, "listen_port=%u\n", change->listen);
	for (size_t i = 0; i < change->count; i++)
		put_peer(&t, &change->peers[i]);
	put(&t, "\n");
	if (t.failed)
		drop(&t);
	return t.data;
}

/* ---- reading ---- */

static bool number(const char *text, uint64_t max, uint64_t *out)
{
	uint64_t n = 0;

	if (!*text)
		return false;
	for (; *text; text++) {
		if (*text < '0' || *text > '9' || __builtin_mul_overflow(n, 10, &n) ||
			__builtin_add_overflow(n, (uint64_t)(*text - '0'), &n))
			return false;
	}
	if (n > max)
		return false;
	*out = n;
	return true;
}

static bool hex_key(const char *text, uint8_t key[LAT_WG_KEY])
{
	size_t n;

	return strlen(text) == LAT_WG_KEY * 2 &&
	       sodium_hex2bin(key, LAT_WG_KEY, text, LAT_WG_KEY * 2, NULL, &n, NULL) == 0 && n == LAT_WG_KEY;
}

static bool peer_line(struct lat_wg_peer *peer, const char *key, const char *value)
{
	struct lat_prefix prefix;
	uint64_t n;

	if (strcmp(key, "endpoint") == 0) {
		peer->has_endpoint = lat_wg_endpoint_parse(value, &peer->endpoint, &peer->port) == 0;
		return peer->has_endpoint;
	}
	if (strcmp(key, "allowed_ip") == 0)
		return lat_prefix_parse(value, &prefix) == 0 && lat_wg_add_allowed(peer, &prefix) == 0;
	if (strcmp(key, "preshared_key") == 0)
		return hex_key(value, peer->preshared);
	if (strcmp(key, "persistent_keepalive_interval") == 0) {
		if (!number(value, UINT16_MAX, &n))
			return false;
		peer->keepalive = (uint16_t)n;
		return true;
	}
	if (strcmp(key, "rx_bytes") == 0)
		return number(value, UINT64_MAX, &peer->rx);
	if (strcmp(key, "tx_bytes") == 0)
		return number(value, UINT64_MAX, &peer->tx);
	if (strcmp(key, "last_handshake_time_sec") == 0) {
		if (!number(value, INT64_MAX, &n))
			return false;
		peer->handshake_s = (int64_t)n;
		return true;
	}
	return true; /* what a later version says besides */
}

static bool device_line(struct lat_wg *wg, const char *key, const char *value)
{
	uint64_t n;

	if (strcmp(key, "private_key") == 0) {
		wg->set_private = true;
		return hex_key(value, wg->private_key) && lat_wg_key_public(wg->private_key, wg->public_key) == 0;
	}
	if (strcmp(key, "listen_port") == 0) {
		if (!number(value, UINT16_MAX, &n))
			return false;
		wg->set_listen = true;
		wg->listen = (uint16_t)n;
	}
	return true;
}

int lat_wg_uapi_parse(char *text, struct lat_wg *out)
{
	struct lat_wg wg = { 0 };
	struct lat_wg_peer *peer = NULL;
	uint8_t public_key[LAT_WG_KEY];
	bool said = false;
	char *end;
	int r = 0;

	for (char *line = text; r == 0 && *line; line = end) {
		char *value = strchr(line, '=');
		uint64_t n;

		end = line + strcspn(line, "\n");
		if (*end)
			*end++ = 0;
		if (!*line)
			continue;
		value = strchr(line, '=');
		if (!value) {
			r = -EBADMSG;
			break;
		}
		*value++ = 0;
		if (strcmp(line, "errno") == 0) {
			const char *digits = *value == '-' ? value + 1 : value;

			said = number(digits, 4095, &n);
			r = !said ? -EBADMSG : n ? -(int)n : 0;
		} else if (strcmp(line, "public_key") == 0) {
			peer = hex_key(value, public_key) ? lat_wg_add_peer(&wg, public_key) : NULL;
			r = peer ? 0 : -EBADMSG;
		} else if (!(peer ? peer_line(peer, line, value) : device_line(&wg, line, value))) {
			r = -EBADMSG;
		}
	}
	if (r == 0 && !said)
		r = -EBADMSG;
	if (r < 0) {
		lat_wg_wipe(&wg);
		return r;
	}
	*out = wg;
	explicit_bzero(&wg, sizeof(wg)); /* the copy on the stack */
	return 0;
}

/* ---- the socket ---- */

/* Waits until the socket is ready for `events`, up to the deadline. */
static int await(int fd, short events, uint64_t until_ns)
{
	for (;;) {
		uint64_t now = lat_now_ns();
		struct pollfd p = { fd, events, 0 };
		int r = now < until_ns ? poll(&p, 1, (int)((until_ns - now) / 1000000) + 1) : 0;

		if (r == 0)
			return -ETIME;
		if (r > 0)
			return 0;
		if (errno != EINTR)
			return -errno;
	}
}

static int dial(int dir, const char *name, uint64_t until_ns, int *out)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	lat_autoclose int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	snprintf(at.sun_path, sizeof(at.sun_path), "/proc/self/fd/%d/%s.sock", dir, name);
	while (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
		struct pollfd none = { -1, 0, 0 };

		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		if (lat_now_ns() > until_ns) /* its queue of connections is full */
			return -ETIME;
		poll(&none, 1, 5);
	}
	*out = lat_take_fd(&fd);
	return 0;
}

static int send_all(int fd, const char *text, uint64_t until_ns)
{
	size_t size = strlen(text);

	while (size > 0) {
		ssize_t n = send(fd, text, size, MSG_NOSIGNAL);
		int r;

		if (n >= 0) {
			text += n;
			size -= (size_t)n;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r = await(fd, POLLOUT, until_ns);
		if (r < 0)
			return r;
	}
	return 0;
}

static int receive(int fd, struct text *t, uint64_t until_ns)
{
	for (;;) {
		ssize_t n;
		int r;

		if (!reserve(t, 65536))
			return -ENOMEM;
		n = recv(fd, t->data + t->size, t->room - t->size - 1, 0);
		if (n == 0)
			return -EPIPE;
		if (n > 0) {
			t->size += (size_t)n;
			t->data[t->size] = 0;
			if (strlen(t->data) != t->size)
				return -EBADMSG;
			if (t->size >= 2 && strcmp(t->data + t->size - 2, "\n\n") == 0)
				return 0;
			continue;
		}
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r = await(fd, POLLIN, until_ns);
		if (r < 0)
			return r;
	}
}

static int exchange(int dir, const char *name, const char *request, struct lat_wg *out)
{
	uint64_t until_ns = lat_now_ns() + WAIT_NS;
	lat_autoclose int fd = -1;
	struct text answer = { 0 };
	int r = dial(dir, name, until_ns, &fd);

	if (r == 0)
		r = send_all(fd, request, until_ns);
	if (r == 0)
		r = receive(fd, &answer, until_ns);
	if (r == 0)
		r = lat_wg_uapi_parse(answer.data, out);
	drop(&answer);
	return r;
}

int lat_wg_uapi_get(int dir, const char *name, struct lat_wg *out)
{
	return exchange(dir, name, "get=1\n\n", out);
}

int lat_wg_uapi_set(int dir, const char *name, const struct lat_wg *change)
{
	char *text = lat_wg_uapi_format(change);
	struct lat_wg nothing;
	int r;

	if (!text)
		return -ENOMEM;
	r = exchange(dir, name, text, &nothing);
	if (r == 0)
		lat_wg_wipe(&nothing);
	explicit_bzero(text, strlen(text));
	free(text);
	return r;
}
