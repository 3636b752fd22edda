/* See child.h. Five handles: the process, its three pipes, the timer. The end has come when the process is gone and both
 * output pipes are at their end; the last close callback frees. A grandchild that keeps a pipe open is cut by the timer. */
#include "loop/child.h"
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ERR_MAX 4096
#define ENV_MAX 16
#define PATH "PATH=/usr/sbin:/usr/bin:/sbin:/bin"

struct output {
	uv_pipe_t pipe;
	char *text;
	size_t len, room, max;
	bool cut; /* what is beyond max is thrown away; else it is an error */
	bool ended;
};

struct lat_child {
	uv_process_t process;
	uv_pipe_t in;
	uv_write_t write;
	uv_timer_t timer;
	struct output out, err;
	void (*done)(void *ctx, const struct lat_child_result *result); /* NULL: cancelled, or called */
	void *ctx;
	char *input;
	struct lat_child_result result;
	bool exited;
	int handles;
	char scratch[65536];
};

static void on_closed(uv_handle_t *handle)
{
	struct lat_child *c = handle->data;

	if (--c->handles > 0)
		return;
	free(c->input);
	free(c->out.text);
	free(c->err.text);
	free(c);
}

static void close_one(uv_handle_t *handle)
{
	if (!uv_is_closing(handle))
		uv_close(handle, on_closed);
}

static void close_all(struct lat_child *c)
{
	close_one((uv_handle_t *)&c->process);
	close_one((uv_handle_t *)&c->in);
	close_one((uv_handle_t *)&c->out.pipe);
	close_one((uv_handle_t *)&c->err.pipe);
	close_one((uv_handle_t *)&c->timer);
}

static void fail(struct lat_child *c, int error)
{
	if (c->result.error == 0)
		c->result.error = error;
	if (!c->exited)
		uv_process_kill(&c->process, SIGKILL);
}

static void finish(struct lat_child *c)
{
	void (*done)(void *, const struct lat_child_result *) = c->done;

	if (!c->exited || !c->out.ended || !c->err.ended)
		return;
	c->done = NULL;
	c->result.out = c->out.text ? c->out.text : "";
	c->result.err = c->err.text ? c->err.text : "";
	c->result.out_len = c->out.len;
	c->result.err_len = c->err.len;
	close_all(c);
	if (done)
		done(c->ctx, &c->result); /* the memory lives until the close callbacks */
}

static void on_gone(uv_process_t *process, int64_t status, int signal)
{
	struct lat_child *c = process->data;

	c->exited = true;
	c->result.status = (int)status;
	c->result.signal = signal;
	finish(c);
}

static void on_timer(uv_timer_t *timer)
{
	struct lat_child *c = timer->data;

	fail(c, -ETIME);
	if (c->exited) { /* somebody else holds its pipes */
		c->out.ended = c->err.ended = true;
		finish(c);
	}
}

static void on_alloc(uv_handle_t *handle, size_t suggested, uv_buf_t *buf)
{
	struct lat_child *c = handle->data;

	*buf = uv_buf_init(c->scratch, sizeof(c->scratch));
}

/* 0, or why the bytes cannot be kept. */
static int keep(struct output *o, const char *data, size_t n)
{
	if (n > o->max - o->len) {
		if (!o->cut)
			return -EOVERFLOW;
		n = o->max - o->len;
	}
	if (o->len + n + 1 > o->room) {
		size_t room = o->room ? o->room : 4096;
		char *text;

		while (room < o->len + n + 1)
			room *= 2;
		text = realloc(o->text, room);
		if (!text)
			return -ENOMEM;
		o->text = text;
		o->room = room;
	}
	memcpy(o->text + o->len, data, n);
	o->len += n;
	o->text[o->len] = '\0';
	return 0;
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
	struct lat_child *c = stream->data;
	struct output *o = stream == (uv_stream_t *)&c->out.pipe ? &c->out : &c->err;
	int r;

	if (n == 0)
		return;
	if (n < 0) {
		o->ended = true;
		finish(c);
		return;
	}
	r = keep(o, buf->base, (size_t)n);
	if (r < 0) {
		uv_read_stop(stream);
		o->ended = true;
		fail(c, r);
		finish(c);
	}
}

/* A child that ends before it has read everything says so by its status. */
static void on_written(uv_write_t *request, int status)
{
	struct lat_child *c = request->data;

	close_one((uv_handle_t *)&c->in);
}

static const char *const folders[] = { "/usr/sbin/", "/usr/bin/", "/sbin/", "/bin/" };

/* uv_spawn would look in our own PATH. */
static int find_program(const char *name, char *path, size_t size)
{
	if (strchr(name, '/')) {
		snprintf(path, size, "%s", name);
		return access(path, X_OK) == 0 ? 0 : -errno;
	}
	for (size_t i = 0; i < sizeof(folders) / sizeof(folders[0]); i++) {
		snprintf(path, size, "%s%s", folders[i], name);
		if (access(path, X_OK) == 0)
			return 0;
	}
	return -ENOENT;
}

static int spawn(uv_loop_t *loop, struct lat_child *c, const struct lat_child_spec *spec, const char *path)
{
	uv_stdio_container_t stdio[] = {
		{ .flags = UV_CREATE_PIPE | UV_READABLE_PIPE, .data.stream = (uv_stream_t *)&c->in },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->out.pipe },
		{ .flags = UV_CREATE_PIPE | UV_WRITABLE_PIPE, .data.stream = (uv_stream_t *)&c->err.pipe },
	};
	char *env[ENV_MAX + 3] = { (char *)PATH, (char *)"LC_ALL=C" };
	size_t count = 2;
	uv_process_options_t options = {
		.exit_cb = on_gone, .file = path, .args = (char **)spec->argv, .env = env,
		.stdio = stdio, .stdio_count = 3, .cwd = "/",
	};
	int r = 0;

	for (size_t i = 0; spec->names && spec->names[i] && i < ENV_MAX && r == 0; i++) {
		const char *value = getenv(spec->names[i]);

		if (value && asprintf(&env[count], "%s=%s", spec->names[i], value) < 0)
			r = -ENOMEM;
		else if (value)
			count++;
	}
	env[count] = NULL;
	if (r == 0)
		r = uv_spawn(loop, &c->process, &options);
	while (count > 2)
		free(env[--count]);
	return r;
}

static void forget(struct lat_child *c)
{
	c->done = NULL;
	close_all(c);
}

int lat_child_start(uv_loop_t *loop, const struct lat_child_spec *spec,
	void (*done)(void *ctx, const struct lat_child_result *result), void *ctx, struct lat_child **out)
{
	struct lat_child *c;
	char path[256];
	struct sigaction on_pipe;
	uv_buf_t buf;
	int r = find_program(spec->argv[0], path, sizeof(path));

	if (r < 0)
		return r;
	/* libuv writes without MSG_NOSIGNAL: a child that did not read to the end must not end us. */
	if (sigaction(SIGPIPE, NULL, &on_pipe) == 0 && on_pipe.sa_handler == SIG_DFL)
		signal(SIGPIPE, SIG_IGN);
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->input = malloc(spec->input_len ? spec->input_len : 1);
	if (!c->input) {
		free(c);
		return -ENOMEM;
	}
	if (spec->input_len)
		memcpy(c->input, spec->input, spec->input_len);
	c->done = done;
	c->ctx = ctx;
	c->out.max = spec->out_max;
	c->err.max = ERR_MAX;
	c->err.cut = true;
	c->process.data = c->write.data = c;
	uv_pipe_init(loop, &c->in, 0);
	uv_pipe_init(loop, &c->out.pipe, 0);
	uv_pipe_init(loop, &c->err.pipe, 0);
	uv_timer_init(loop, &c->timer);
	c->in.data = c->out.pipe.data = c->err.pipe.data = c->timer.data = c;
	c->handles = 5; /* uv_spawn initialises the process handle also where it fails */
	r = spawn(loop, c, spec, path);
	if (r < 0) {
		c->exited = true;
		forget(c);
		return r;
	}
	uv_update_time(loop);
	uv_timer_start(&c->timer, on_timer, spec->timeout_ms, 100);
	uv_read_start((uv_stream_t *)&c->out.pipe, on_alloc, on_read);
	uv_read_start((uv_stream_t *)&c->err.pipe, on_alloc, on_read);
	buf = uv_buf_init(c->input, (unsigned int)spec->input_len);
	if (spec->input_len == 0 || uv_write(&c->write, (uv_stream_t *)&c->in, &buf, 1, on_written) < 0)
		close_one((uv_handle_t *)&c->in);
	*out = c;
	return 0;
}

void lat_child_cancel(struct lat_child *c)
{
	/* libuv reaps only what has an open handle, and the handle may not outlive the loop: reaped here, it dies at once. */
	if (!c->exited) {
		pid_t pid = uv_process_get_pid(&c->process);

		kill(pid, SIGKILL);
		while (waitpid(pid, NULL, 0) < 0 && errno == EINTR) {
		}
	}
	forget(c);
}
