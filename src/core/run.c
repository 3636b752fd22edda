/* The life of a run: launch, self-check, loop, end. See run.h; what differs between modes is in run_trap.c and run_wall.c. */
#include "core/run_private.h"
#include "base/clock.h"
#include "base/log.h"
#include "base/mem.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/timerfd.h>
#include <sys/wait.h>

#define TICK_MS 250
#define BUSY_TICK_MS 10
#define PROBE_TIMEOUT_NS (5 * LAT_NS_PER_SEC)

static void on_message(struct lat_run *run, const struct lat_msg *m, const int *fds, size_t nfds)
{
	switch (m->type) {
	case LAT_MSG_PROBED:
		run->probed = true;
		run->probe_failed = m->value;
		break;
	case LAT_MSG_SOCKETS:
		if (!run->flows)
			break;
		lat_flows_add_sockets(run->flows, fds, nfds);
		return;
	case LAT_MSG_EXIT:
		run->ended = true;
		run->status = m->value;
		run->stop = true;
		break;
	case LAT_MSG_FAILED:
		run->ended = true;
		run->status = m->extra ? (int)m->extra : LAT_RUN_FAILED;
		run->stop = true;
		lat_error("%.*s: %s", (int)sizeof(m->text), m->text, strerror(m->value));
		break;
	default:
		break;
	}
	for (size_t i = 0; i < nfds; i++)
		close(fds[i]);
}

static void on_control(struct lat_poll_item *item, uint32_t events)
{
	struct lat_run *run = lat_container_of(item, struct lat_run, control);
	int fds[LAT_MSG_MAX_FDS], r;
	struct lat_msg m;
	size_t nfds;

	(void)events;
	for (int budget = 16; budget > 0; budget--) {
		nfds = LAT_ARRAY_SIZE(fds);
		r = lat_launch_receive(&run->sandbox, &m, fds, &nfds);
		if (r == -EAGAIN)
			return;
		if (r < 0) { /* init is gone: init_end tells the rest */
			lat_poller_del(run->poller, item);
			return;
		}
		on_message(run, &m, fds, nfds);
	}
}

static void on_init_end(struct lat_poll_item *item, uint32_t events)
{
	struct lat_run *run = lat_container_of(item, struct lat_run, init_end);

	(void)events;
	on_control(&run->control, EPOLLIN); /* the status may still be in the pipe */
	if (!run->ended) {
		int status = lat_launch_status(&run->sandbox);

		run->status = status < 0 ? 128 + SIGKILL : status;
		if (status >= 0)
			run->ended = true;
		else if (run->running)
			lat_error("the sandbox's init ended unexpectedly; everything inside was killed");
		else
			run->status = LAT_RUN_FAILED;
	}
	run->stop = true;
}

/* From a terminal (SI_KERNEL) the command gets the signal itself, for it is in the same process group; what was sent to us
 * by kill(2) is passed on. SIGHUP from kill(2) means reload. That the terminal is gone is told to the leader of the
 * session alone: if we are that, the command hears it from us. */
static void on_signal(struct lat_poll_item *item, uint32_t events)
{
	struct lat_run *run = lat_container_of(item, struct lat_run, signals);
	struct signalfd_siginfo si;

	(void)events;
	while (read(item->fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
		if (si.ssi_code == SI_KERNEL) {
			if (si.ssi_signo == SIGHUP && getsid(0) == getpid())
				lat_launch_signal(&run->sandbox, SIGHUP);
			continue;
		}
		if (si.ssi_signo == SIGHUP)
			lat_run_reload(run);
		else
			lat_launch_signal(&run->sandbox, (int)si.ssi_signo);
	}
}

static void on_uv(struct lat_poll_item *item, uint32_t events)
{
	(void)item; /* uv_run happens in turn() */
	(void)events;
}

/* Back from the busy period, the next full tick is due when it was: calls that come and go may not put it off for ever. */
static void arm_tick(struct lat_run *run, unsigned ms)
{
	struct itimerspec every = { { 0, (long)(ms * LAT_NS_PER_MS) }, { 0, (long)(ms * LAT_NS_PER_MS) } };
	uint64_t since;

	if (run->tick_ms == ms)
		return;
	since = (lat_now_ns() - run->ticked_ns) / LAT_NS_PER_MS;
	if (ms == TICK_MS)
		every.it_value.tv_nsec = since < TICK_MS ? (long)((TICK_MS - since) * LAT_NS_PER_MS) : 1;
	run->tick_ms = ms;
	timerfd_settime(run->tick.fd, 0, &every, NULL);
}

/* A periodic timer, so that waiting itself arms none: epoll_wait with a time-out would, on every packet. */
static void on_tick(struct lat_poll_item *item, uint32_t events)
{
	struct lat_run *run = lat_container_of(item, struct lat_run, tick);
	uint64_t now = lat_now_ns(), count;

	(void)events;
	if (read(item->fd, &count, sizeof(count)) < 0)
		return;
	if (run->connects)
		lat_connects_tick(run->connects, now);
	lat_preload_tick(run, now);
	if (now - run->ticked_ns < TICK_MS * LAT_NS_PER_MS / 2) /* a busy tick: for these alone */
		return;
	run->ticked_ns = now;
	run->mode->tick(run, now);
	lat_run_limits_tick(run);
	lat_dns_tick(run->dns, now);
	lat_pins_expire(run->pins, now);
	lat_run_questions_tick(run, now);
	if (run->reload_due) { /* not at once: an editor may still be writing */
		run->reload_due = false;
		lat_run_reload(run);
	}
}

/* One turn: descriptors, then libuv (the resolver). */
static int turn(struct lat_run *run)
{
	int timeout = -1, r;

	if (uv_loop_alive(&run->loop)) {
		uv_update_time(&run->loop);
		timeout = uv_backend_timeout(&run->loop);
	}
	r = lat_poller_dispatch(run->poller, 64, timeout);
	if (r < 0 && r != -EINTR)
		return r;
	if (uv_loop_alive(&run->loop))
		uv_run(&run->loop, UV_RUN_NOWAIT);
	arm_tick(run, lat_preload_busy(run) || (run->connects && lat_connects_busy(run->connects)) ? BUSY_TICK_MS : TICK_MS);
	return 0;
}

static int loop_until(struct lat_run *run, const bool *flag, uint64_t deadline_ns)
{
	int r;

	while (!run->stop && !*flag) {
		if (deadline_ns && lat_now_ns() > deadline_ns)
			return -ETIMEDOUT;
		r = turn(run);
		if (r < 0)
			return r;
	}
	return 0;
}

/* The probe in the command's place must be refused by each layer, and the supervisor must have seen it refused. */
static int self_check(struct lat_run *run)
{
	static const char *const names[] = { "connect", "MSG_FASTOPEN", "UDP", "AF_PACKET", "user namespace", "io_uring",
		"cgroup" };
	_Static_assert(LAT_ARRAY_SIZE(names) == LAT_PROBE_COUNT, "a name for each probe");
	int r;

	run->probing = true;
	r = lat_launch_probe(&run->sandbox);
	if (r == 0)
		r = loop_until(run, &run->probed, lat_now_ns() + PROBE_TIMEOUT_NS);
	run->probing = false;
	if (r < 0 || !run->probed) {
		if (!run->ended)
			lat_error("the self-check did not finish (%s); the command was not started. See: lattice doctor",
				r < 0 ? strerror(-r) : "the sandbox ended");
		return -EPROTO;
	}
	for (int i = 0; i < LAT_PROBE_COUNT; i++)
		if (run->probe_failed & (1 << i))
			lat_error("self-check: the probe \"%s\" was not refused", names[i]);
	if (run->probe_failed || !run->mode->told(run)) {
		lat_error("the wall does not hold here; the command was not started. See: lattice doctor");
		return -EPROTO;
	}
	return 0;
}

static void on_file_change(void *ctx)
{
	((struct lat_run *)ctx)->reload_due = true;
}

static void watch(struct lat_run *run, struct lat_poll_item *item, int fd,
	void (*ready)(struct lat_poll_item *, uint32_t), int *error)
{
	int r;

	item->fd = fd;
	item->ready = ready;
	r = lat_poller_add(run->poller, item, EPOLLIN);
	if (r < 0)
		*error = r;
}

static int set_up(struct lat_run *run)
{
	struct lat_dns_options dns = { .hooks = &run->hooks.dns, .udp = -1, .tcp = -1 };
	const struct lat_sandbox *s = &run->sandbox;
	struct rlimit files;
	int r, error = 0;

	lat_run_dns_hooks(run, &run->hooks.dns);
	if (getrlimit(RLIMIT_NOFILE, &files) == 0 && files.rlim_cur < files.rlim_max) {
		files.rlim_cur = files.rlim_max;
		setrlimit(RLIMIT_NOFILE, &files);
	}
	r = lat_poller_new(&run->poller);
	if (r < 0)
		return r;
	run->rate_used = calloc(run->policy->spec.rule_count + 1, sizeof(*run->rate_used));
	if (!run->rate_used) /* without it no rate would be limited */
		return -ENOMEM;
	if ((r = lat_run_pin_unix(run)) < 0)
		return r;
	if ((r = lat_pins_new(65536, &run->pins)) < 0 || (r = lat_answers_new(1024, &run->answers)) < 0)
		return r;
	watch(run, &run->control, s->control, on_control, &error);
	watch(run, &run->init_end, s->pidfd, on_init_end, &error);
	watch(run, &run->signals, run->signals.fd, on_signal, &error);
	watch(run, &run->tick, timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK), on_tick, &error);
	watch(run, &run->uv, uv_backend_fd(&run->loop), on_uv, &error);
	if (run->options->watch && error == 0)
		error = lat_file_watch_new(run->poller, run->options->watch, on_file_change, run, &run->watch);
	if (error < 0)
		return error;
	r = run->mode->open(run, &dns);
	if (r < 0)
		return r;
	r = lat_resolver_new(&run->loop, &run->resolver);
	if (r < 0)
		return r;
	dns.poller = run->poller;
	dns.resolver = run->resolver;
	return lat_dns_new(&dns, &run->dns);
}

static void start_record(struct lat_run *run)
{
	struct lat_record r = { .kind = LAT_RECORD_START, .action = LAT_ACTION_ALLOW };

	r.who.pid = getpid();
	r.who.uid = getuid();
	snprintf(r.text, sizeof(r.text), "mode %s%s, policy \"%.60s\": %.140s",
		run->mode->name, run->mode->told ? "" : " (advisory)", run->policy->spec.name ? run->policy->spec.name : "", run->options->launch.argv[0]);
	lat_run_emit(run, &r);
}

static void drain_uv(uv_loop_t *loop)
{
	for (int i = 0; i < 100 && uv_loop_alive(loop); i++)
		uv_run(loop, UV_RUN_NOWAIT);
	uv_loop_close(loop);
}

static void tear_down(struct lat_run *run)
{
	const struct lat_run_options *o = run->options;
	struct lat_record r = { .kind = LAT_RECORD_EXIT, .action = LAT_ACTION_ALLOW, .status = run->status };
	char say[LAT_RUN_SAY] = "";
	uint64_t lost = 0;

	if (run->dns)
		lat_dns_free(run->dns);
	if (run->flows)
		lat_flows_free(run->flows);
	if (run->connects)
		lat_connects_free(run->connects);
	run->connects = NULL; /* what is still told below has nobody to ask */
	lat_sandbox_close(&run->sandbox);
	lat_run_limits_end(run);
	if (run->mode->end)
		run->mode->end(run, say);
	if (run->resolver)
		lat_resolver_free(run->resolver);
	if (!lat_worker_stop(run->worker, 2000) && o->stuck)
		*o->stuck = true;
	if (run->audit) {
		snprintf(r.text, sizeof(r.text), "exit status %d%s%.200s", run->status, say[0] ? "; " : "", say);
		lat_run_emit(run, &r);
		lost = lat_audit_stop(run->audit, 5000);
	}
	if (run->running && !o->no_summary) {
		if (o->json)
			lat_summary_json(run->summary, stderr, run->status, lost);
		else
			lat_summary_print(run->summary, stderr, lost);
		if ((o->verbose || !run->mode->told) && say[0] && !o->json)
			fprintf(stderr, "lattice: %s\n", say);
	}
	run->mode->close(run);
	lat_run_reload_end(run);
	lat_file_watch_free(run->watch);
	drain_uv(&run->loop);
	lat_pins_free(run->pins);
	lat_answers_free(run->answers);
	lat_summary_free(run->summary);
	lat_policy_unref(run->policy);
	if (run->routed)
		run->routed->release(run->routed);
	free(run->rate_used);
	free(run->unix_pins);
	lat_poller_free(run->poller);
	lat_close(&run->tick.fd);
}

static int block_signals(sigset_t *old)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGQUIT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigaddset(&set, SIGWINCH);
	sigprocmask(SIG_BLOCK, &set, old);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* What came for a run that is over must not end its caller: a SIGHUP asked for a reload. */
static void unblock_signals(int *fd, const sigset_t *old)
{
	struct signalfd_siginfo si;

	while (*fd >= 0 && read(*fd, &si, sizeof(si)) == (ssize_t)sizeof(si)) {
	}
	lat_close(fd);
	sigprocmask(SIG_SETMASK, old, NULL);
}

int lat_run(const struct lat_run_options *options)
{
	struct lat_run *run = calloc(1, sizeof(*run));
	struct lat_launch_error error = { .text = "" };
	struct lat_launch_spec launch = options->launch;
	char say[LAT_RUN_SAY] = "";
	const char *target = NULL;
	sigset_t old;
	int r, status;
	bool never = false;

	if (!run) {
		lat_error("out of memory");
		return LAT_RUN_FAILED;
	}
	run->options = options;
	run->mode = options->kernel ? &lat_run_wall : options->preload ? &lat_run_preload : &lat_run_trap;
	run->group = options->group;
	run->status = LAT_RUN_FAILED;
	run->tick.fd = -1;
	run->policy = lat_policy_ref(options->policy);
	run->next_generation = run->policy->generation + 1;
	run->sandbox = (struct lat_sandbox){ -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1, -1 };
	r = uv_loop_init(&run->loop);
	if (r < 0) {
		lat_error("cannot make the event loop: %s; the command was not started", strerror(-r));
		goto no_loop;
	}
	if (lat_summary_new(4096, &run->summary) < 0) {
		lat_error("out of memory");
		goto out;
	}
	/* The child's signal mask is the caller's: launched before ours are blocked. No thread exists yet: the launcher's
	 * children may allocate. */
	r = run->mode->prepare(run, &launch, say);
	if (r < 0) {
		if (options->failure)
			*options->failure = r;
		lat_error("%s; the command was not started", say[0] ? say : strerror(-r));
		goto out;
	}
	if (run->group) {
		launch.oom_first = lat_cgroup_limits(run->group)->memory > 0;
		launch.place = lat_run_place;
		launch.place_ctx = run;
	}
	r = lat_launch(&launch, &run->sandbox, &error);
	if (r < 0) {
		lat_error("%s%s", error.text[0] ? error.text : strerror(-r),
			error.missing_feature ? " (lattice doctor tells what this host lacks)" : "");
		goto out;
	}
	prctl(PR_SET_DUMPABLE, 0); /* nothing of the same uid may attach to us, inside or outside */
	run->signals.fd = block_signals(&old);
	r = set_up(run);
	if (r < 0) {
		lat_error("cannot set up the supervisor: %s; the command was not started", strerror(-r));
		goto unblock;
	}
	r = lat_audit_start(&(struct lat_audit_options){ .run_name = options->name, .run_id = options->run_id,
				    .mode = run->mode->name, .passed_over = options->passed_over,
				    .policy = run->policy->spec.name, .routes = options->routes,
				    .route_count = options->route_count },
		&run->audit, &target);
	if (r < 0) {
		lat_error("cannot open the audit sink %s: %s; the command was not started", target ? target : "",
			strerror(-r));
		goto unblock;
	}
	if (options->worker) {
		r = lat_worker_start(run->poller, options->worker, lat_run_worker_done, run, &run->worker);
		if (r < 0) {
			lat_error("cannot start the policy thread: %s", strerror(-r));
			goto unblock;
		}
	}
	start_record(run);
	lat_run_limits_start(run);
	if (run->mode->told && self_check(run) < 0)
		goto unblock;
	r = lat_launch_go(&run->sandbox);
	if (r == 0) {
		run->running = true;
		lat_log_set_patience(false);
		r = loop_until(run, &never, 0);
	}
	if (r < 0) {
		lat_error("the supervisor's loop failed: %s", strerror(-r));
		run->status = LAT_RUN_FAILED;
	}
unblock:
	lat_log_set_patience(true);
	tear_down(run);
	unblock_signals(&run->signals.fd, &old);
	status = run->status;
	free(run);
	return status;
out:
	run->mode->close(run);
	uv_loop_close(&run->loop);
no_loop:
	lat_summary_free(run->summary);
	lat_policy_unref(run->policy);
	free(run);
	return LAT_RUN_FAILED;
}
