/* The audit: what is emitted is received or counted as lost, whatever the sink does, and emitting never waits. */
#include "core/audit.h"
#include "base/clock.h"
#include "base/mem.h"
#include <fcntl.h>
#include <jansson.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <cmocka.h>

static char dir[64], file[96], other[96];

static int prepare(void **state)
{
	strcpy(dir, "/tmp/lat-audit-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	snprintf(file, sizeof(file), "%s/audit.jsonl", dir);
	snprintf(other, sizeof(other), "%s/other", dir);
	return 0;
}

static int clean(void **state)
{
	static const char *const names[] = { "audit.jsonl", "audit.jsonl.1", "other", "moved", "full" };
	char path[128];

	for (size_t i = 0; i < LAT_ARRAY_SIZE(names); i++) {
		snprintf(path, sizeof(path), "%s/%s", dir, names[i]);
		unlink(path);
	}
	return rmdir(dir) < 0;
}

static struct lat_audit *start(const struct lat_audit_route *routes, size_t count, size_t queue)
{
	struct lat_audit_options o = { .run_name = "test", .run_id = "r", .mode = "user", .policy = "p", .routes = routes,
		.route_count = count, .queue_records = queue };
	struct lat_audit *a = NULL;
	const char *failed = NULL;

	assert_int_equal(lat_audit_start(&o, &a, &failed), 0);
	return a;
}

static uint64_t emit(struct lat_audit *a, uint8_t kind, uint8_t action, unsigned number)
{
	struct lat_record r = { .kind = kind, .action = action, .rule = number, .generation = 1, .where = "p.lua:1" };

	lat_audit_emit(a, &r);
	return r.seq;
}

/* What a reader of a sink makes of its lines. */
struct tally {
	uint64_t records, lost, line, gaps, torn, last_rule;
};

static void count_line(struct tally *t, const char *text, size_t len)
{
	json_t *root = json_loadb(text, len, JSON_REJECT_DUPLICATES, NULL), *own;
	uint64_t line, lost;

	if (!root) {
		t->torn++;
		return;
	}
	own = json_object_get(json_object_get(root, "unmapped"), "lattice");
	line = (uint64_t)json_integer_value(json_object_get(own, "line"));
	lost = (uint64_t)json_integer_value(json_object_get(own, "lost"));
	if (strcmp(json_string_value(json_object_get(own, "kind")), "loss") == 0)
		t->lost += lost;
	else
		t->records++;
	if (line != t->line + 1 && line - t->line - 1 > lost)
		t->gaps++;
	t->line = line;
	t->last_rule = (uint64_t)json_integer_value(json_object_get(own, "rule"));
	json_decref(root);
}

static void count_lines(struct tally *t, const char *text, size_t len)
{
	const char *end;

	for (; (end = memchr(text, '\n', len)); len -= (size_t)(end + 1 - text), text = end + 1)
		count_line(t, text, (size_t)(end - text));
	t->torn += len > 0;
}

static void count_file(struct tally *t, const char *path)
{
	lat_autoclose int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	char *text;

	assert_true(fd >= 0);
	assert_int_equal(fstat(fd, &st), 0);
	text = malloc((size_t)st.st_size + 1);
	assert_int_equal(read(fd, text, (size_t)st.st_size), st.st_size);
	count_lines(t, text, (size_t)st.st_size);
	free(text);
}

static void every_record_is_received_or_counted(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1 };
	struct lat_audit *a = start(&route, 1, 0);
	uint64_t begin = lat_now_ns(), end, lost, worst = 0;
	struct tally t = { 0 };
	struct stat st;

	for (unsigned i = 1; i <= 100000; i++) {
		uint64_t t0 = lat_now_ns();

		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
		t0 = lat_now_ns() - t0;
		worst = t0 > worst ? t0 : worst;
	}
	end = lat_now_ns();
	lost = lat_audit_stop(a, 5000);
	count_file(&t, file);
	print_message("100k records: %.2f us an emit, worst %.0f us, %llu received, %llu lost\n",
		(double)(end - begin) / 1e8, (double)worst / 1e3, (unsigned long long)t.records, (unsigned long long)t.lost);
	assert_int_equal(t.records + t.lost, 100000);
	assert_int_equal(t.lost, lost);
	assert_int_equal(t.gaps, 0);
	assert_int_equal(t.torn, 0);
	assert_int_equal(stat(file, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
}

static void a_small_queue_tells_of_its_losses(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1 };
	struct lat_audit *a = start(&route, 1, 4);
	struct tally t = { 0 };
	uint64_t seq = 0, got;

	for (unsigned i = 1; i <= 5000; i++) {
		got = emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
		assert_true(got == 0 || got > seq);
		seq = got ? got : seq;
	}
	got = lat_audit_stop(a, 5000);
	count_file(&t, file);
	assert_int_equal(t.records + t.lost, 5000);
	assert_int_equal(t.lost, got);
	assert_true(t.lost > 0);
	assert_int_equal(t.gaps, 0);
}

static void routes_choose_by_kind_and_action(void **state)
{
	struct lat_audit_route routes[] = {
		{ .target = file, .fd = -1, .actions = 1u << LAT_ACTION_DENY },
		{ .target = other, .fd = -1, .kinds = 1u << LAT_RECORD_DNS },
		{ .target = file, .fd = -1, .kinds = 1u << LAT_RECORD_VERDICT }, /* the same sink: once each */
	};
	struct lat_audit *a = start(routes, 3, 0);
	struct tally t = { 0 }, u = { 0 };

	emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, 1);
	emit(a, LAT_RECORD_VERDICT, LAT_ACTION_ALLOW, 2);
	emit(a, LAT_RECORD_DNS, LAT_ACTION_ALLOW, 3);
	emit(a, LAT_RECORD_DNS, LAT_ACTION_DENY, 4);
	emit(a, LAT_RECORD_START, 0, 5);
	assert_int_equal(lat_audit_stop(a, 5000), 0);
	count_file(&t, file);
	count_file(&u, other);
	assert_int_equal(t.records, 4); /* 1, 2, 4, 5 */
	assert_int_equal(u.records, 2);
	assert_int_equal(t.gaps + u.gaps, 0);
}

static void a_reload_changes_the_routes_without_losing_a_record(void **state)
{
	struct lat_audit_route one[] = { { .target = file, .fd = -1 } };
	struct lat_audit_route two[] = { { .target = file, .fd = -1 }, { .target = other, .fd = -1 } };
	struct lat_audit_route bad[] = { { .target = "/nowhere/at/all", .fd = -1 } };
	struct lat_audit *a = start(one, 1, 0);
	struct tally t = { 0 }, u = { 0 };
	const char *failed = NULL;

	for (unsigned i = 0; i < 300; i++) {
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
		if (i % 100 == 50)
			assert_int_equal(lat_audit_reroute(a, i < 100 ? two : one, i < 100 ? 2 : 1, &failed), 0);
	}
	assert_int_equal(lat_audit_reroute(a, bad, 1, &failed), -ENOENT);
	assert_string_equal(failed, "/nowhere/at/all");
	emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, 1000);
	assert_int_equal(lat_audit_stop(a, 5000), 0);
	count_file(&t, file);
	count_file(&u, other);
	assert_int_equal(t.records, 301);
	assert_int_equal(t.gaps + u.gaps, 0);
}

static void a_file_turns_at_its_size(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1, .rotate_bytes = 40000 };
	struct lat_audit *a = start(&route, 1, 0);
	struct tally t = { 0 };
	char old[128];
	struct stat st;

	snprintf(old, sizeof(old), "%s.1", file);
	for (unsigned i = 1; i <= 60; i++)
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	for (unsigned i = 0; stat(old, &st) < 0 && i < 500; i++) { /* until it has turned once */
		poll(NULL, 0, 5);
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	}
	assert_int_equal(lat_audit_stop(a, 5000), 0);
	assert_int_equal(stat(old, &st), 0);
	assert_int_equal(st.st_mode & 0777, 0600);
	count_file(&t, old);
	count_file(&t, file);
	assert_int_equal(t.gaps + t.torn, 0);
}

static void links_are_not_followed(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1 };
	struct lat_audit_options o = { .routes = &route, .route_count = 1 };
	struct lat_audit *a = NULL;
	const char *failed = NULL;

	assert_int_equal(symlink("other", file), 0);
	assert_int_equal(lat_audit_start(&o, &a, &failed), -ELOOP);
	assert_string_equal(failed, file);
	assert_null(a);
	assert_int_equal(access(other, F_OK), -1);
}

/* Reads a FIFO or socket until nothing has come for a while after `done`. */
struct reader {
	int fd;
	size_t len, size;
	char *text;
};

static void drain(struct reader *r, bool datagrams)
{
	ssize_t n;

	while (r->size - r->len > 65536 && (n = read(r->fd, r->text + r->len, 65536)) > 0) {
		r->len += (size_t)n;
		if (datagrams)
			r->text[r->len++] = '\n';
	}
}

static void a_stopped_reader_of_a_fifo_costs_records_and_nothing_else(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1 };
	struct reader r = { .size = 64 << 20 };
	struct tally t = { 0 };
	struct lat_audit *a;
	uint64_t begin, end, lost;

	r.text = malloc(r.size);
	assert_int_equal(mkfifo(file, 0600), 0);
	a = start(&route, 1, 256); /* nobody reads yet: starts all the same */
	r.fd = open(file, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	begin = lat_now_ns();
	for (unsigned i = 1; i <= 20000; i++)
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	end = lat_now_ns();
	assert_true(end - begin < 2 * LAT_NS_PER_SEC);
	for (unsigned i = 0; i < 400; i++) { /* the reader goes on: the loss is told without a further record */
		drain(&r, false);
		poll(NULL, 0, 5);
		t = (struct tally){ 0 };
		count_lines(&t, r.text, r.len);
		if (t.lost && t.records + t.lost == 20000)
			break;
	}
	lost = lat_audit_stop(a, 2000);
	drain(&r, false);
	t = (struct tally){ 0 };
	count_lines(&t, r.text, r.len);
	assert_true(t.lost > 0);
	assert_int_equal(t.records + t.lost, 20000);
	assert_int_equal(lost, t.lost);
	assert_int_equal(t.gaps + t.torn, 0);
	close(r.fd);
	free(r.text);
}

static void a_reader_that_never_comes_back_does_not_hold_the_end(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1 };
	struct lat_audit *a;
	uint64_t begin;

	assert_int_equal(mkfifo(file, 0600), 0);
	a = start(&route, 1, 0);
	for (unsigned i = 1; i <= 1000; i++)
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	begin = lat_now_ns();
	assert_true(lat_audit_stop(a, 300) > 0);
	assert_true(lat_now_ns() - begin < 2 * LAT_NS_PER_SEC);
}

static void a_given_pipe_stays_in_its_mode(void **state)
{
	int p[2];
	struct lat_audit_route route = { .target = "pipe" };
	struct tally t = { 0 };
	struct reader r = { .size = 1 << 20 };
	struct lat_audit *a;

	assert_int_equal(pipe2(p, O_CLOEXEC), 0);
	route.fd = p[1];
	a = start(&route, 1, 0);
	for (unsigned i = 1; i <= 20; i++)
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	assert_false(fcntl(p[1], F_GETFL) & O_NONBLOCK);
	assert_int_equal(lat_audit_stop(a, 5000), 0);
	r.fd = p[0];
	r.text = malloc(r.size);
	drain(&r, false);
	count_lines(&t, r.text, r.len);
	assert_int_equal(t.records, 20);
	close(p[0]);
	free(r.text);
}

static int datagram_server(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);

	strcpy(at.sun_path, path);
	unlink(path);
	assert_int_equal(bind(fd, (struct sockaddr *)&at, sizeof(at)), 0);
	return fd;
}

static void a_datagram_sink_survives_its_receiver(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1, .sink = LAT_SINK_UNIX };
	struct reader r = { .fd = datagram_server(file), .size = 16 << 20 };
	struct tally t = { 0 };
	struct lat_audit *a = start(&route, 1, 0);

	r.text = malloc(r.size);
	for (unsigned i = 1; i <= 2000; i++) {
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
		if (i == 1000) { /* received, then gone, then there again */
			for (unsigned k = 0; k < 1000 && t.records + t.lost < 1000; k++) {
				poll(&(struct pollfd){ r.fd, POLLIN, 0 }, 1, 10);
				drain(&r, true);
				t = (struct tally){ 0 };
				count_lines(&t, r.text, r.len);
			}
			close(r.fd);
		}
	}
	r.fd = datagram_server(file);
	for (unsigned k = 0; k < 1000 && t.records + t.lost < 2000; k++) {
		poll(&(struct pollfd){ r.fd, POLLIN, 0 }, 1, 10);
		drain(&r, true);
		t = (struct tally){ 0 };
		count_lines(&t, r.text, r.len);
	}
	assert_int_equal(lat_audit_stop(a, 5000), t.lost);
	assert_int_equal(t.records + t.lost, 2000);
	assert_int_equal(t.gaps + t.torn, 0);
	close(r.fd);
	free(r.text);
}

static void syslog_lines_are_rfc_5424(void **state)
{
	struct lat_audit_route route = { .target = file, .fd = -1, .sink = LAT_SINK_SYSLOG };
	int fd = datagram_server(file), year;
	struct lat_audit *a = start(&route, 1, 0);
	char text[16384];
	ssize_t n;
	char *json;
	json_t *root;

	emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, 1);
	assert_int_equal(lat_audit_stop(a, 5000), 0);
	n = read(fd, text, sizeof(text) - 1);
	assert_true(n > 0);
	text[n] = '\0';
	assert_int_equal(sscanf(text, "<28>1 %d-", &year), 1);
	json = strstr(text, " audit - {");
	assert_non_null(json);
	root = json_loads(json + 9, 0, NULL);
	assert_non_null(root);
	json_decref(root);
	close(fd);
}

/* In a mount namespace of its own: a file system of 64 KiB that fills, and is emptied by the reader. */
static int fill_small_file_system(void)
{
	char small[128], rival[160];
	struct lat_audit_route route = { .target = small, .fd = -1 };
	struct lat_audit *a;
	struct tally t = { 0 };
	uint64_t lost;
	struct stat st;
	int fd;

	if (unshare(CLONE_NEWNS) < 0 || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 ||
		mount("tmpfs", dir, "tmpfs", 0, "size=64k") < 0)
		return 77;
	snprintf(small, sizeof(small), "%s/audit.jsonl", dir);
	snprintf(rival, sizeof(rival), "%s/rival", dir);
	fd = open(rival, O_WRONLY | O_CREAT | O_CLOEXEC, 0600);
	if (ftruncate(fd, 0) < 0 || posix_fallocate(fd, 0, 32768) != 0)
		return 2;
	close(fd);
	a = start(&route, 1, 64);
	for (unsigned i = 1; i <= 5000; i++)
		emit(a, LAT_RECORD_VERDICT, LAT_ACTION_DENY, i);
	for (unsigned k = 0; k < 500 && (stat(small, &st) < 0 || st.st_size < 32768); k++)
		poll(NULL, 0, 5); /* until it is full */
	unlink(rival);
	if (mount(NULL, dir, NULL, MS_REMOUNT, "size=8m") < 0)
		return 3;
	for (unsigned k = 0; k < 500; k++) {
		poll(NULL, 0, 5);
		t = (struct tally){ 0 };
		count_file(&t, small);
		if (t.records + t.lost == 5000)
			break;
	}
	lost = lat_audit_stop(a, 2000);
	t = (struct tally){ 0 };
	count_file(&t, small);
	if (t.records + t.lost != 5000 || t.lost != lost || !t.lost || t.gaps || t.torn) {
		fprintf(stderr, "records %llu lost %llu told %llu gaps %llu torn %llu\n", (unsigned long long)t.records,
			(unsigned long long)lost, (unsigned long long)t.lost, (unsigned long long)t.gaps, (unsigned long long)t.torn);
		return 4;
	}
	return 0;
}

static void a_full_disk_costs_records_and_says_so(void **state)
{
	pid_t pid = fork();
	int status;

	if (pid == 0)
		_exit(fill_small_file_system());
	assert_int_equal(waitpid(pid, &status, 0), pid);
	if (WIFEXITED(status) && WEXITSTATUS(status) == 77) {
		print_message("only root can mount a small file system\n");
		skip();
	}
	assert_int_equal(status, 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, prepare, clean)
	const struct CMUnitTest tests[] = {
		T(every_record_is_received_or_counted),
		T(a_small_queue_tells_of_its_losses),
		T(routes_choose_by_kind_and_action),
		T(a_reload_changes_the_routes_without_losing_a_record),
		T(a_file_turns_at_its_size),
		T(links_are_not_followed),
		T(a_stopped_reader_of_a_fifo_costs_records_and_nothing_else),
		T(a_reader_that_never_comes_back_does_not_hold_the_end),
		T(a_given_pipe_stays_in_its_mode),
		T(a_datagram_sink_survives_its_receiver),
		T(syslog_lines_are_rfc_5424),
		T(a_full_disk_costs_records_and_says_so),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
