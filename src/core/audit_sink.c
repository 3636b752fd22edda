/* See audit_sink.h. `buf` holds whole lines that the target has not taken yet, only the first of which may be partly written
 * (`torn`): its rest goes first when the target recovers, so that no line is ever cut. */
#include "core/audit_sink.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#define KEEP_MAX 262144
#define LOOK_NS LAT_NS_PER_SEC /* how often a file is looked at: was it moved away? */
#define PRIORITY_NOTICE (3 * 8 + 5) /* daemon.notice */
#define PRIORITY_WARNING (3 * 8 + 4)

struct lat_sink {
	int kind, fd;
	char *target;
	bool given;    /* the descriptor was given: no target to open again */
	bool regular, socket;
	bool failing;  /* the trouble has been told */
	uint64_t rotate_bytes, size, looked_ns;
	uint64_t line; /* number of the last line that was meant for this sink */
	uint64_t lost_seq, lost, lost_total; /* not told yet; in all */
	size_t from, len, lines; /* kept: buf[from .. from + len) */
	bool torn;               /* the line at `from` is partly written */
	char buf[KEEP_MAX];
};

static int connect_unix(const char *path)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	lat_autoclose int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	if (fd < 0)
		return -errno;
	if (strlen(path) >= sizeof(a.sun_path))
		return -ENAMETOOLONG;
	strcpy(a.sun_path, path);
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
		return -errno;
	return lat_take_fd(&fd);
}

/* The standard streams are links in /dev, and their descriptions are shared with the program: opened anew where that can be,
 * so that our non-blocking mode is ours alone. */
static int open_stream(int number)
{
	char path[32];
	int fd;

	snprintf(path, sizeof(path), "/proc/self/fd/%d", number);
	fd = open(path, O_WRONLY | O_APPEND | O_NONBLOCK | O_CLOEXEC | O_NOCTTY);
	if (fd < 0)
		fd = fcntl(number, F_DUPFD_CLOEXEC, 3);
	return fd < 0 ? -errno : fd;
}

static int open_path(const char *path)
{
	int flags = O_APPEND | O_CREAT | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC | O_NOCTTY;
	struct stat st;
	int fd;

	if (strcmp(path, "/dev/stderr") == 0)
		return open_stream(2);
	if (strcmp(path, "/dev/stdout") == 0)
		return open_stream(1);
	fd = open(path, flags | O_WRONLY, 0600);
	/* A FIFO that nobody reads yet: as its own reader we may write at once, and never get SIGPIPE. */
	if (fd < 0 && errno == ENXIO && lstat(path, &st) == 0 && S_ISFIFO(st.st_mode))
		fd = open(path, flags | O_RDWR, 0600);
	return fd < 0 ? -errno : fd;
}

static int reopen(struct lat_sink *s)
{
	struct stat st;
	int fd;

	if (s->given)
		return s->fd >= 0 ? 0 : -EBADF;
	fd = s->kind == LAT_SINK_FILE ? open_path(s->target) : connect_unix(s->target);
	if (fd < 0)
		return fd;
	lat_close(&s->fd);
	s->fd = fd;
	s->size = 0;
	s->regular = s->socket = false;
	if (fstat(fd, &st) == 0) {
		s->regular = S_ISREG(st.st_mode);
		s->socket = S_ISSOCK(st.st_mode);
		s->size = s->regular ? (uint64_t)st.st_size : 0;
	}
	s->looked_ns = lat_now_ns();
	return 0;
}

int lat_sink_open(const struct lat_audit_route *route, struct lat_sink **out)
{
	bool file = route->sink == LAT_SINK_FILE;
	lat_autoclose int given = file ? route->fd : -1;
	lat_autofree struct lat_sink *s = malloc(sizeof(*s)); /* buf is not touched before it is used */
	struct stat st;
	int r;

	if (!s)
		return -ENOMEM;
	memset(s, 0, offsetof(struct lat_sink, buf));
	s->kind = route->sink;
	s->fd = -1;
	s->rotate_bytes = route->rotate_bytes;
	s->target = strdup(route->target ? route->target : s->kind == LAT_SINK_SYSLOG ? "/dev/log" : "");
	if (!s->target)
		return -ENOMEM;
	if (given >= 0) {
		if (fstat(given, &st) < 0) {
			r = -errno;
			free(s->target);
			return r;
		}
		s->given = true;
		s->regular = S_ISREG(st.st_mode);
		s->socket = S_ISSOCK(st.st_mode);
		s->size = s->regular ? (uint64_t)st.st_size : 0;
		s->fd = lat_take_fd(&given);
		s->rotate_bytes = 0;
	} else {
		r = reopen(s);
		if (r < 0) {
			free(s->target);
			return r;
		}
	}
	*out = lat_take(&s);
	return 0;
}

bool lat_sink_is(const struct lat_sink *s, const struct lat_audit_route *route)
{
	const char *target = route->target ? route->target : route->sink == LAT_SINK_SYSLOG ? "/dev/log" : "";

	return s->kind == (int)route->sink && strcmp(s->target, target) == 0;
}

void lat_sink_set_rotation(struct lat_sink *s, uint64_t bytes)
{
	if (!s->given)
		s->rotate_bytes = bytes;
}

static void tell_trouble(struct lat_sink *s, int error)
{
	if (!s->failing)
		lat_warn("audit: %s: %s; what cannot be kept is lost, and counted", s->target,
			error == ENOBUFS ? "the reader does not keep up" : strerror(error));
	s->failing = true;
}

static void tell_recovery(struct lat_sink *s)
{
	if (s->failing)
		lat_info("audit: %s: works again", s->target);
	s->failing = false;
}

/* To NAME.1 with it when it is full; and a new one when somebody moved ours away. */
static void turn_file(struct lat_sink *s)
{
	uint64_t now = lat_now_ns();
	struct stat at, ours;
	char old[4096];

	if (!s->regular || s->given || s->torn)
		return;
	if (s->rotate_bytes && s->size && s->size + s->len > s->rotate_bytes &&
		snprintf(old, sizeof(old), "%s.1", s->target) < (int)sizeof(old)) {
		fsync(s->fd);
		if (rename(s->target, old) < 0 || reopen(s) < 0)
			tell_trouble(s, errno);
		return;
	}
	if (now - s->looked_ns < LOOK_NS)
		return;
	s->looked_ns = now;
	if (fstat(s->fd, &ours) == 0 && (lstat(s->target, &at) < 0 || at.st_ino != ours.st_ino || at.st_dev != ours.st_dev))
		reopen(s); /* on failure the old one goes on taking */
}

static size_t lines_in(const char *text, size_t len)
{
	size_t n = 0;

	for (const char *at = text; (at = memchr(at, '\n', len - (size_t)(at - text))); at++)
		n++;
	return n;
}

/* The whole lines within `most` bytes; a line that is longer is cut there, its rest comes at once after it. */
static size_t whole_lines(const char *text, size_t len, size_t most)
{
	const char *end;

	if (len <= most)
		return len;
	end = memrchr(text, '\n', most);
	return end ? (size_t)(end - text) + 1 : most;
}

/* One write of as much as the target may take without blocking. Bytes taken, or negative errno. */
static ssize_t hand_over(struct lat_sink *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLOUT };
	const char *text = s->buf + s->from;
	size_t len = s->len;
	ssize_t n;

	if (s->kind != LAT_SINK_FILE) { /* one datagram a line, without the newline */
		len = (size_t)((const char *)memchr(text, '\n', len) - text);
		n = send(s->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		return n < 0 ? -errno : (ssize_t)len + 1;
	}
	if (s->socket) {
		n = send(s->fd, text, len, MSG_DONTWAIT | MSG_NOSIGNAL);
		return n < 0 ? -errno : n;
	}
	if (!s->regular) { /* a given pipe may be in blocking mode: a writable one takes this much, and all of it */
		if (poll(&p, 1, 0) < 1)
			return -EAGAIN;
		len = whole_lines(text, len, PIPE_BUF);
	}
	n = write(s->fd, text, len);
	return n < 0 ? -errno : n;
}

static bool is_gone(ssize_t e)
{
	return e == -ECONNREFUSED || e == -ENOTCONN || e == -ECONNRESET || e == -ENOENT || e == -EPIPE;
}

static void write_kept(struct lat_sink *s)
{
	int tries = 0;

	if (s->len)
		turn_file(s);
	while (s->len) {
		ssize_t n = s->fd >= 0 ? hand_over(s) : -ENOTCONN;

		if (n == -EINTR || (is_gone(n) && tries++ == 0 && reopen(s) == 0))
			continue;
		if (n <= 0) {
			if (n != -EAGAIN && n != -ENOBUFS)
				tell_trouble(s, n ? (int)-n : EIO);
			return;
		}
		s->lines -= lines_in(s->buf + s->from, (size_t)n);
		s->torn = s->buf[s->from + (size_t)n - 1] != '\n';
		s->size += (uint64_t)n;
		s->len -= (size_t)n;
		s->from += (size_t)n;
	}
	s->from = 0;
	tell_recovery(s);
}

static int format(struct lat_sink *s, const struct lat_record *r, const struct lat_audit_context *context, char *to, size_t size)
{
	struct lat_audit_context c = *context;
	int head = 0, n;

	c.line = s->line;
	if (s->kind == LAT_SINK_SYSLOG) {
		bool refused = r->action != LAT_ACTION_ALLOW && r->action != LAT_ACTION_AUDIT && r->kind == LAT_RECORD_VERDICT;
		time_t when = (time_t)(r->time_ms / 1000);
		struct tm tm;
		char stamp[32];

		gmtime_r(&when, &tm);
		strftime(stamp, sizeof(stamp), "%Y-%m-%dT%H:%M:%S", &tm);
		head = snprintf(to, size, "<%d>1 %s.%03uZ %s lattice %d audit - ", refused ? PRIORITY_WARNING : PRIORITY_NOTICE,
			stamp, (unsigned)(r->time_ms % 1000), c.host && *c.host ? c.host : "-", getpid());
		if (head < 0 || (size_t)head >= size)
			return -ENOSPC;
	}
	n = lat_record_ocsf(r, &c, to + head, size - (size_t)head - 1);
	if (n < 0)
		return n;
	to[head + n] = '\n';
	return head + n + 1;
}

/* Appends the record's line to what is kept. */
static int keep(struct lat_sink *s, const struct lat_record *r, const struct lat_audit_context *c)
{
	int n;

	if (sizeof(s->buf) - s->from - s->len < LAT_LINE_MAX) {
		memmove(s->buf, s->buf + s->from, s->len);
		s->from = 0;
	}
	if (sizeof(s->buf) - s->len < LAT_LINE_MAX)
		return -ENOBUFS;
	n = format(s, r, c, s->buf + s->from + s->len, LAT_LINE_MAX);
	if (n < 0)
		return n;
	s->len += (size_t)n;
	s->lines++;
	return 0;
}

/* Says what was lost, as soon as the target has taken all that was kept. */
static void tell_loss(struct lat_sink *s, const struct lat_audit_context *c)
{
	struct lat_record r = { .kind = LAT_RECORD_LOSS, .seq = s->lost_seq, .time_ms = lat_wall_ms(), .lost = s->lost };

	if (s->lost == 0 || s->len)
		return;
	snprintf(r.text, sizeof(r.text), "the sink did not take them");
	if (keep(s, &r, c) < 0)
		return;
	s->lost = 0;
	write_kept(s);
}

void lat_sink_put(struct lat_sink *s, const struct lat_record *r, const struct lat_audit_context *c)
{
	if (sizeof(s->buf) - s->len < LAT_LINE_MAX)
		write_kept(s);
	tell_loss(s, c);
	s->line++;
	if (s->lost == 0 && keep(s, r, c) == 0)
		return;
	tell_trouble(s, ENOBUFS);
	s->lost_seq = r->seq;
	if (r->kind == LAT_RECORD_LOSS) { /* what it would have told is told with ours */
		s->lost += r->lost;
		return;
	}
	s->lost++;
	s->lost_total++;
}

void lat_sink_flush(struct lat_sink *s, const struct lat_audit_context *c)
{
	write_kept(s);
	tell_loss(s, c);
}

bool lat_sink_pending(const struct lat_sink *s)
{
	return s->len || s->lost;
}

uint64_t lat_sink_lost(const struct lat_sink *s)
{
	return s->lost_total;
}

uint64_t lat_sink_close(struct lat_sink *s, const struct lat_audit_context *c)
{
	uint64_t lost;

	lat_sink_flush(s, c);
	if (s->regular)
		fsync(s->fd);
	lost = s->lost_total + s->lines;
	lat_close(&s->fd);
	free(s->target);
	free(s);
	return lost;
}
