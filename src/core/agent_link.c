/* See agent_link.h. */
#include "core/agent_link.h"
#include "base/clock.h"
#include "base/mem.h"
#include <errno.h>
#include <jansson.h>
#include <lattice_abi.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define MOST_ANSWER (16u << 20)
#define START_MS 60000 /* policies of any size are loaded */
#define ASK_MS 10000

struct lat_agent_link {
	int fd;
	struct lat_agent_hooks hooks;
	uint8_t *bytes;  /* what came and was not taken */
	size_t count, room, at;
	int64_t next_id, run_id, wanted; /* wanted: whose answer is waited for, 0: none */
	json_t *answer;  /* of wanted */
	char why[LAT_AGENT_SAY];
	bool ended;
};

static void end(struct lat_agent_link *l, const char *why)
{
	if (!l->ended)
		snprintf(l->why, sizeof(l->why), "%s", why);
	l->ended = true;
}

int lat_agent_new(int fd, const struct lat_agent_hooks *hooks, struct lat_agent_link **out)
{
	struct lat_agent_link *l = calloc(1, sizeof(*l));

	if (!l)
		return -ENOMEM;
	l->fd = fd;
	l->hooks = *hooks;
	*out = l;
	return 0;
}

/* Somebody else's socket in the agent's place would only tell us lies. */
static int check_listener(int fd, const char *path, char say[LAT_AGENT_SAY])
{
	struct ucred who;
	socklen_t len = sizeof(who);

	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &len) < 0)
		return -errno;
	if (who.uid == 0 || who.uid == geteuid())
		return 0;
	snprintf(say, LAT_AGENT_SAY, "%.200s is not an agent's: uid %u listens there", path, (unsigned)who.uid);
	return -EACCES;
}

int lat_agent_open(const char *path, const struct lat_agent_hooks *hooks, struct lat_agent_link **out, char say[LAT_AGENT_SAY])
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	lat_autoclose int fd = -1;
	int r;

	say[0] = '\0';
	if (strlen(path) >= sizeof(at.sun_path)) {
		snprintf(say, LAT_AGENT_SAY, "%.200s: too long for a socket", path);
		return -ENAMETOOLONG;
	}
	strcpy(at.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return -errno;
	if (connect(fd, (struct sockaddr *)&at, sizeof(at)) < 0) {
		r = -errno;
		snprintf(say, LAT_AGENT_SAY, "no agent answers on %.200s: %s", path, strerror(-r));
		return r;
	}
	r = check_listener(fd, path, say);
	if (r == 0)
		r = lat_agent_new(fd, hooks, out);
	if (r == 0)
		lat_take_fd(&fd);
	return r;
}

void lat_agent_close(struct lat_agent_link *l)
{
	if (!l)
		return;
	close(l->fd);
	json_decref(l->answer);
	free(l->bytes);
	free(l);
}

int lat_agent_fd(const struct lat_agent_link *l)
{
	return l->fd;
}

const char *lat_agent_ended(const struct lat_agent_link *l)
{
	return l->ended ? l->why : NULL;
}

/* ---- what comes ---- */

static int nibble(char c)
{
	return c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool unhex(const char *text, uint8_t *out, size_t size)
{
	for (size_t i = 0; i < size; i++) {
		int hi = nibble(text[2 * i]), lo = hi < 0 ? -1 : nibble(text[2 * i + 1]);

		if (lo < 0)
			return false;
		out[i] = (uint8_t)(hi << 4 | lo);
	}
	return true;
}

static void take_events(struct lat_agent_link *l, const char *hex, size_t len)
{
	uint8_t record[sizeof(struct lat_event)];

	if (len % (2 * sizeof(record))) {
		end(l, "the agent's events are of another version of Lattice");
		return;
	}
	for (size_t at = 0; at < len && !l->ended; at += 2 * sizeof(record)) {
		if (!unhex(hex + at, record, sizeof(record)))
			end(l, "the agent sent events that are none");
		else if (l->hooks.event)
			l->hooks.event(l->hooks.ctx, record, sizeof(record));
	}
}

/* One of the run's stream. */
static void take_item(struct lat_agent_link *l, json_t *item)
{
	json_t *events = json_object_get(item, "events"), *lost = json_object_get(item, "lost");

	if (json_is_string(events))
		take_events(l, json_string_value(events), json_string_length(events));
	if (json_is_integer(lost) && json_integer_value(lost) > 0 && l->hooks.lost)
		l->hooks.lost(l->hooks.ctx, (uint64_t)json_integer_value(lost));
	if (json_object_get(item, "reload") && l->hooks.reload)
		l->hooks.reload(l->hooks.ctx);
}

static const char *text_of(json_t *object, const char *key)
{
	const char *text = json_string_value(json_object_get(object, key));

	return text ? text : "";
}

/* The last word on the run, or on the connection. */
static void take_end(struct lat_agent_link *l, json_t *frame)
{
	json_t *error = json_object_get(frame, "error"), *result = json_object_get(frame, "result");
	const char *why = error ? text_of(error, "text") : text_of(result, "ended");

	end(l, why[0] ? why : "the agent ended the run");
}

static void take_frame(struct lat_agent_link *l, json_t *frame)
{
	json_t *id = json_object_get(frame, "id");
	bool more = json_is_true(json_object_get(frame, "more"));

	if (!json_is_integer(id)) {
		take_end(l, frame);
	} else if (json_integer_value(id) == l->wanted) {
		l->wanted = 0;
		l->answer = json_incref(frame);
	} else if (json_integer_value(id) == l->run_id) {
		if (more)
			take_item(l, json_object_get(frame, "result"));
		else
			take_end(l, frame);
	}
}

/* Frames that are whole, until the answer that is waited for is among them. */
static void take_frames(struct lat_agent_link *l, bool until_answer)
{
	while (!l->ended && l->count - l->at >= 4 && !(until_answer && l->answer)) {
		const uint8_t *b = l->bytes + l->at;
		size_t size = (size_t)b[0] << 24 | (size_t)b[1] << 16 | (size_t)b[2] << 8 | b[3];
		json_t *frame;

		if (size > MOST_ANSWER) {
			end(l, "the agent sent a frame that is too large");
			return;
		}
		if (l->count - l->at < 4 + size)
			break;
		frame = json_loadb((const char *)b + 4, size, 0, NULL);
		l->at += 4 + size;
		if (json_is_object(frame))
			take_frame(l, frame);
		else
			end(l, "the agent sent what is no frame");
		json_decref(frame);
	}
	memmove(l->bytes, l->bytes + l->at, l->count - l->at);
	l->count -= l->at;
	l->at = 0;
}

/* What the socket has, without waiting. */
static int read_some(struct lat_agent_link *l)
{
	for (;;) {
		ssize_t n;

		if (l->room - l->count < 65536) {
			size_t room = l->room ? 2 * l->room : 131072;
			uint8_t *bytes = room > 2 * (MOST_ANSWER + 65536ul) ? NULL : realloc(l->bytes, room);

			if (!bytes)
				return -ENOMEM;
			l->bytes = bytes;
			l->room = room;
		}
		n = recv(l->fd, l->bytes + l->count, l->room - l->count, MSG_DONTWAIT);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN || errno == EWOULDBLOCK ? 0 : -errno;
		if (n == 0)
			return -EPIPE;
		l->count += (size_t)n;
		if (l->count >= 1u << 20)
			return 0;
	}
}

static int step(struct lat_agent_link *l, bool until_answer)
{
	int r = read_some(l);

	if (l->bytes)
		take_frames(l, until_answer);
	if (r < 0)
		end(l, "the agent has ended");
	return l->ended ? -EPIPE : 0;
}

int lat_agent_dispatch(struct lat_agent_link *l)
{
	return l->ended ? -EPIPE : step(l, false);
}

/* ---- what is asked ---- */

static int send_all(struct lat_agent_link *l, const void *data, size_t size, uint64_t deadline_ns)
{
	const uint8_t *at = data;

	while (size > 0) {
		struct pollfd p = { .fd = l->fd, .events = POLLOUT };
		ssize_t n = send(l->fd, at, size, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (n > 0) {
			at += n;
			size -= (size_t)n;
		} else if (n < 0 && errno != EAGAIN && errno != EWOULDBLOCK && errno != EINTR) {
			return -errno;
		} else if (lat_now_ns() > deadline_ns) {
			return -ETIMEDOUT;
		} else {
			poll(&p, 1, 100);
		}
	}
	return 0;
}

static int send_request(struct lat_agent_link *l, const char *verb, json_t *args, uint64_t deadline_ns)
{
	json_t *frame = json_pack("{s:i, s:I, s:s, s:o}", "v", 1, "id", (json_int_t)++l->next_id, "verb", verb, "args", args);
	lat_autofree char *text = frame ? json_dumps(frame, JSON_COMPACT) : NULL;
	size_t size = text ? strlen(text) : 0;
	uint8_t head[4] = { (uint8_t)(size >> 24), (uint8_t)(size >> 16), (uint8_t)(size >> 8), (uint8_t)size };
	int r;

	json_decref(frame);
	if (!text)
		return -ENOMEM;
	r = send_all(l, head, sizeof(head), deadline_ns);
	return r < 0 ? r : send_all(l, text, size, deadline_ns);
}

static int error_of(const char *code)
{
	static const struct { const char *name; int error; } known[] = { { "EACCES", EACCES }, { "EPERM", EPERM },
		{ "EBUSY", EBUSY }, { "EINVAL", EINVAL }, { "ESRCH", ESRCH }, { "EAGAIN", EAGAIN }, { "ENOENT", ENOENT },
		{ "ENOSYS", ENOSYS }, { "EOPNOTSUPP", EOPNOTSUPP }, { "ENODEV", ENODEV }, { "policy", EINVAL } };

	for (size_t i = 0; i < sizeof(known) / sizeof(known[0]); i++)
		if (strcmp(known[i].name, code) == 0)
			return -known[i].error;
	return -EIO;
}

/* The result, a reference of the caller's, in *out. args is taken. */
static int ask(struct lat_agent_link *l, const char *verb, json_t *args, int ms, json_t **out, char say[LAT_AGENT_SAY])
{
	uint64_t deadline = lat_now_ns() + (uint64_t)ms * LAT_NS_PER_MS;
	json_t *error;
	int r;

	say[0] = '\0';
	if (!args)
		return -ENOMEM;
	if (l->ended) {
		json_decref(args);
		snprintf(say, LAT_AGENT_SAY, "%s", l->why);
		return -EPIPE;
	}
	r = send_request(l, verb, args, deadline);
	l->wanted = l->next_id;
	while (r == 0 && !l->answer) {
		struct pollfd p = { .fd = l->fd, .events = POLLIN };

		if (l->count > 0)
			take_frames(l, true); /* may be there already */
		if (l->answer)
			break;
		if (lat_now_ns() > deadline)
			r = -ETIMEDOUT;
		else if (poll(&p, 1, 100) > 0)
			r = step(l, true);
		if (l->answer)
			r = 0;
	}
	if (r < 0) {
		if (r == -ETIMEDOUT)
			end(l, "the agent does not answer"); /* its late answer would be taken for another's */
		snprintf(say, LAT_AGENT_SAY, "%s", l->ended ? l->why : strerror(-r));
		return r;
	}
	error = json_object_get(l->answer, "error");
	if (error) {
		snprintf(say, LAT_AGENT_SAY, "%s", text_of(error, "text"));
		r = error_of(text_of(error, "code"));
	} else {
		*out = json_incref(json_object_get(l->answer, "result"));
		r = *out ? 0 : -EPROTO;
	}
	json_decref(l->answer);
	l->answer = NULL;
	return r;
}

static void put(char *to, size_t size, json_t *object, const char *key)
{
	snprintf(to, size, "%s", text_of(object, key));
}

int lat_agent_start(struct lat_agent_link *l, const struct lat_agent_run *run, struct lat_agent_started *out,
	char say[LAT_AGENT_SAY])
{
	json_t *args = json_pack("{s:i, s:s, s:b}", "pid", (int)run->init, "name", run->name ? run->name : "command", "no_unix",
		run->no_unix);
	json_t *result = NULL, *started;
	int r;

	if (args && run->policy && json_object_set_new(args, "policy", json_string(run->policy)) < 0) {
		json_decref(args);
		snprintf(say, LAT_AGENT_SAY, "the path of the policy is no UTF-8");
		return -EILSEQ;
	}
	if (args && run->dns_port)
		json_object_set_new(args, "dns_port", json_integer(run->dns_port));
	l->run_id = l->next_id + 1;
	r = ask(l, "run", args, START_MS, &result, say);
	started = json_object_get(result, "started");
	if (r == 0 && !started) {
		snprintf(say, LAT_AGENT_SAY, "the agent's answer to a run is none");
		r = -EPROTO;
	}
	if (r == 0) {
		put(out->id, sizeof(out->id), started, "id");
		put(out->group, sizeof(out->group), started, "group");
		put(out->network, sizeof(out->network), started, "network");
		put(out->digest, sizeof(out->digest), started, "digest");
		out->generation = (uint32_t)json_integer_value(json_object_get(started, "generation"));
	}
	json_decref(result);
	return r;
}

int lat_agent_pin(struct lat_agent_link *l, const struct lat_filter_pin *pins, size_t count, char say[LAT_AGENT_SAY])
{
	json_t *list = json_array(), *result = NULL;
	int r;

	for (size_t i = 0; i < count; i++) {
		char text[LAT_ADDR_TEXT];
		json_t *names = json_array();

		lat_addr_format(&pins[i].addr, text, sizeof(text));
		for (size_t k = 0; k < pins[i].name_count; k++)
			json_array_append_new(names, json_string(pins[i].names[k]));
		json_array_append_new(list, json_pack("{s:s, s:o}", "addr", text, "names", names));
	}
	r = ask(l, "run-pin", json_pack("{s:o}", "pins", list), ASK_MS, &result, say);
	json_decref(result);
	return r;
}

int lat_agent_answer(struct lat_agent_link *l, const struct lat_addr *remote, uint8_t proto, uint16_t port, pid_t pid,
	bool allow, uint64_t for_ns, char say[LAT_AGENT_SAY])
{
	char text[LAT_ADDR_TEXT];
	json_t *result = NULL;
	int r;

	lat_addr_format(remote, text, sizeof(text));
	r = ask(l, "run-answer", json_pack("{s:s, s:i, s:i, s:i, s:b, s:I}", "addr", text, "proto", proto, "port", port, "pid",
		(int)pid, "allow", allow, "ms", (json_int_t)(for_ns / LAT_NS_PER_MS)), ASK_MS, &result, say);
	json_decref(result);
	return r;
}

int lat_agent_reload(struct lat_agent_link *l, struct lat_agent_reloaded *out, char say[LAT_AGENT_SAY])
{
	json_t *result = NULL;
	int r = ask(l, "run-reload", json_object(), START_MS, &result, say);

	if (r == 0) {
		put(out->digest, sizeof(out->digest), result, "digest");
		out->generation = (uint32_t)json_integer_value(json_object_get(result, "generation"));
		out->cut = (unsigned)json_integer_value(json_object_get(result, "cut"));
	}
	json_decref(result);
	return r;
}

int lat_agent_finish(struct lat_agent_link *l, char say[LAT_AGENT_SAY])
{
	json_t *result = NULL;
	int r = ask(l, "run-end", json_object(), ASK_MS, &result, say);

	json_decref(result);
	return r == -EPIPE ? 0 : r;
}
