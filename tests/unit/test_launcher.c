/* The launcher: what the command is and has, what it cannot see or change, and how its end comes
 * out. */
#include "support/sandbox.h"
#include <sys/resource.h>

static char folder[] = "/tmp/lattice-test-XXXXXX";

static char *in_folder(const char *name)
{
	static char path[16][128];
	static unsigned turn;
	char *p = path[turn++ % 16];

	snprintf(p, sizeof(path[0]), "%s/%s", folder, name);
	return p;
}

static void write_text(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
	close(fd);
}

static bool file_has(const char *path, const char *text)
{
	char buf[16384];
	int fd = open(path, O_RDONLY);
	ssize_t n = fd < 0 ? 0 : read(fd, buf, sizeof(buf) - 1);

	buf[n > 0 ? n : 0] = '\0';
	if (fd >= 0)
		close(fd);
	return strstr(buf, text) != NULL;
}

/* ---- inside: 0, or the number of what is wrong ---- */

static int in_powerless(const char *arg)
{
	static const char *const lines[] = { "CapInh:\t0000000000000000\n",
		"CapPrm:\t0000000000000000\n", "CapEff:\t0000000000000000\n",
		"CapBnd:\t0000000000000000\n", "CapAmb:\t0000000000000000\n", "NoNewPrivs:\t1\n",
		"Seccomp:\t2\n" };

	for (size_t i = 0; i < sizeof(lines) / sizeof(*lines); i++)
		if (!file_has("/proc/self/status", lines[i]))
			return 1 + (int)i;
	return getpid() == 2 && getppid() == 1 ? 0 : 20;
}

static int in_ids(const char *arg)
{
	unsigned uid, gid;

	if (sscanf(arg, "%u %u", &uid, &gid) != 2)
		return 1;
	if (getuid() != uid || geteuid() != uid)
		return 2;
	return getgid() == gid && getegid() == gid ? 0 : 3;
}

static int in_descriptors(const char *arg)
{
	for (int fd = 3; fd < 1024; fd++)
		if (fcntl(fd, F_GETFD) >= 0)
			return 1;
	return 0;
}

static int in_stdin(const char *arg)
{
	struct stat st;

	if (fstat(0, &st))
		return 1;
	return *arg == 's' ? !S_ISSOCK(st.st_mode) : !S_ISCHR(st.st_mode);
}

static int in_hidden(const char *arg)
{
	char path[256];
	struct stat st;
	int fd;

	snprintf(path, sizeof(path), "%s/secret", arg);
	if (stat(path, &st) || st.st_size || file_has(path, "secret") || open(path, O_WRONLY) >= 0)
		return 1;
	snprintf(path, sizeof(path), "%s/vault/key", arg);
	if (!access(path, F_OK))
		return 2;
	snprintf(path, sizeof(path), "%s/fixed", arg);
	fd = open(path, O_RDWR);
	if (fd >= 0 || errno != EROFS || !file_has(path, "fixed"))
		return 3;
	if (!unlink(path) || !rename("/dev/null", path))
		return 4;
	snprintf(path, sizeof(path), "%s/free", arg);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	return fd < 0 ? 5 : 0;
}

static int in_resolution(const char *arg)
{
	char name[128];

	if (!file_has("/etc/resolv.conf", "nameserver " LAT_TRAP_DNS "\n"))
		return 1;
	gethostname(name, sizeof(name));
	if (!file_has("/etc/hosts", "127.0.0.1 localhost") || !file_has("/etc/hosts", name))
		return 2;
	if (!access("/etc/nsswitch.conf", F_OK) &&
		!file_has("/etc/nsswitch.conf", "hosts: files dns\n"))
		return 3;
	return open("/etc/resolv.conf", O_WRONLY) < 0 ? 0 : 4;
}

static int in_kernel_files(const char *arg)
{
	static const char *const paths[] = { "/proc/sys/kernel/core_pattern",
		"/proc/sys/net/ipv4/tcp_syncookies", "/proc/sys/net/ipv4/ip_forward",
		"/proc/sysrq-trigger", "/sys/kernel/uevent_helper", "/sys/kernel/uevent_seqnum" };

	for (size_t i = 0; i < sizeof(paths) / sizeof(*paths); i++)
		if (open(paths[i], O_WRONLY) >= 0)
			return 1 + (int)i;
	return file_has("/proc/sys/net/ipv4/ip_unprivileged_port_start", "0\n") ? 0 : 20;
}

static int in_signals(const char *arg)
{
	struct sigaction now;
	sigset_t mask;

	sigprocmask(SIG_SETMASK, NULL, &mask);
	for (int sig = 1; sig < 32; sig++)
		if (sigismember(&mask, sig))
			return sig;
	sigaction(SIGPIPE, NULL, &now);
	return now.sa_handler == SIG_DFL ? 0 : 40;
}

static int in_surroundings(const char *arg)
{
	struct rlimit limit;
	char cwd[256];

	if (!getcwd(cwd, sizeof(cwd)) || strcmp(cwd, arg))
		return 1;
	if (!getenv("LATTICE_TEST") || strcmp(getenv("LATTICE_TEST"), "kept"))
		return 2;
	if (umask(0) != 027)
		return 3;
	getrlimit(RLIMIT_MSGQUEUE, &limit);
	return limit.rlim_cur == 4096 && limit.rlim_max == 4096 ? 0 : 4;
}

static int in_group_file(const char *arg)
{
	return open(arg, O_RDONLY) < 0 ? errno : 0;
}

static int in_nested(const char *arg)
{
	struct lat_launch_spec spec = { .argv = (char *[]){ "true", NULL } };
	struct lat_launch_error error;
	struct lat_sandbox box;

	if (lat_launch(&spec, &box, &error) != -EPERM)
		return 1;
	return strstr(error.text, "do not nest") ? 0 : 2;
}

/* ---- outside ---- */

static int run(const char *name, const char *arg)
{
	struct run r = { .refuse = EACCES };

	return sandbox_inside(&r, name, arg);
}

static int shell(const char *text)
{
	struct run r = { .refuse = EACCES };

	return sandbox_run(&r, (const char *[]){ "sh", "-c", text, NULL });
}

static void statuses_are_the_commands(void **state)
{
	assert_int_equal(shell("exit 0"), 0);
	assert_int_equal(shell("exit 42"), 42);
	assert_int_equal(shell("kill -TERM $$"), 128 + SIGTERM);
	assert_int_equal(shell("kill -KILL $$"), 128 + SIGKILL);
	assert_int_equal(shell("ulimit -c 0; kill -SEGV $$"), 128 + SIGSEGV);
}

static void a_command_that_cannot_be_run_says_why(void **state)
{
	struct run r = { 0 };

	assert_int_equal(sandbox_run(&r, (const char *[]){ "no-such-command-here", NULL }), -1);
	assert_int_equal(r.failed.extra, 127);
	assert_non_null(strstr(r.failed.text, "no-such-command-here"));
	assert_int_equal(sandbox_run(&r, (const char *[]){ "/etc/passwd", NULL }), -1);
	assert_int_equal(r.failed.extra, 126);
}

static void the_command_has_no_power(void **state)
{
	assert_int_equal(run("powerless", ""), 0);
}

static void the_command_keeps_its_ids(void **state)
{
	char ids[32];

	snprintf(ids, sizeof(ids), "%u %u", getuid(), getgid());
	assert_int_equal(run("ids", ids), 0);
}

static void supplementary_groups_keep_their_rights(void **state)
{
	const char *path = in_folder("group");
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0440), status;
	pid_t pid;

	assert_true(fd >= 0);
	close(fd);
	if (geteuid()) {
		assert_int_equal(run("group_file", path), 0);
		print_message("only root can make a file that its group alone may read\n");
		skip();
	}
	assert_int_equal(chown(path, 1, GROUP_KEPT), 0);
	assert_int_equal(chmod(path, 0040), 0);
	fflush(NULL);
	pid = fork();
	if (pid == 0) {
		const gid_t groups[] = { GROUP_KEPT };

		if (setgroups(1, groups) || setresgid(NOBODY, NOBODY, NOBODY) ||
			setresuid(NOBODY, NOBODY, NOBODY))
			_exit(98);
		_exit(run("group_file", path));
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void inherited_descriptors_do_not_come_along(void **state)
{
	int net = socket(AF_INET, SOCK_STREAM, 0), root = open("/", O_RDONLY), high;

	high = fcntl(root, F_DUPFD, 900);
	assert_true(net >= 0 && root >= 0 && high >= 900);
	assert_int_equal(run("descriptors", ""), 0);
	close(net);
	close(root);
	close(high);
}

static int with_stdin(int fd, const char *arg)
{
	int keep = fcntl(0, F_DUPFD_CLOEXEC, 3), status;

	assert_int_equal(dup2(fd, 0), 0);
	status = run("stdin", arg);
	assert_int_equal(dup2(keep, 0), 0);
	close(keep);
	return status;
}

static void a_closed_stdin_is_the_null_device(void **state)
{
	const char *const argv[] = { "sh", "-c", "exec \"$0\" --outside <&-", sandbox_self, NULL };
	pid_t pid = fork();
	int status;

	if (pid == 0) {
		execvp(argv[0], (char *const *)argv);
		_exit(99);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void sockets_of_the_host_do_not_come_in_as_stdin(void **state)
{
	int tcp = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), pair[2];

	assert_int_equal(with_stdin(tcp, "null"), 0);
	assert_int_equal(socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(with_stdin(pair[0], "null"), 0);
	close(pair[0]);
	close(pair[1]);
	/* A stream pair is how many programs make pipes, and aims at nothing else. */
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair), 0);
	assert_int_equal(with_stdin(pair[0], "socket"), 0);
	close(pair[0]);
	close(pair[1]);
	close(tcp);
}

static void hidden_is_hidden_and_readonly_is_readonly(void **state)
{
	const char *hide[] = { in_folder("secret"), in_folder("vault"), in_folder("not-there") };
	const char *readonly[] = { in_folder("fixed") };
	struct run r = {
		.spec = { .hide = hide, .hide_count = 3, .readonly = readonly, .readonly_count = 1 }
	};

	mkdir(hide[1], 0755);
	write_text(in_folder("vault/key"), "key");
	hide[1] = in_folder("vault");
	write_text(hide[0], "secret");
	write_text(readonly[0], "fixed");
	assert_int_equal(sandbox_inside(&r, "hidden", folder), 0);
	assert_true(file_has(in_folder("secret"), "secret"));
}

static void names_are_resolved_by_the_supervisor(void **state)
{
	assert_int_equal(run("resolution", ""), 0);
}

static void kernel_files_cannot_be_written(void **state)
{
	assert_int_equal(run("kernel_files", ""), 0);
}

static void signals_are_as_the_caller_had_them(void **state)
{
	sigset_t set, before;
	void (*handler)(int) = signal(SIGPIPE, SIG_IGN);

	sigfillset(&set);
	sigprocmask(SIG_BLOCK, &set, &before);
	assert_int_equal(run("signals", ""), 0);
	sigprocmask(SIG_SETMASK, &before, NULL);
	signal(SIGPIPE, handler);
}

static void directory_environment_umask_and_limits_arrive(void **state)
{
	const struct lat_rlimit limit = { RLIMIT_MSGQUEUE, 4096 };
	struct run r = { .spec = { .rlimits = &limit, .rlimit_count = 1 } };
	mode_t before = umask(027);
	char cwd[4096];

	assert_non_null(getcwd(cwd, sizeof(cwd)));
	setenv("LATTICE_TEST", "kept", 1);
	assert_int_equal(chdir(folder), 0);
	assert_int_equal(sandbox_inside(&r, "surroundings", folder), 0);
	assert_int_equal(chdir(cwd), 0);
	umask(before);
}

/* A descriptor table too small for what comes from inside: refused, and nothing is left open or running. */
static void too_few_descriptors_are_an_error(void **state)
{
	struct lat_launch_spec spec = {.argv = (char *[]){"true", NULL}};
	struct lat_launch_error error;
	struct lat_sandbox box;
	struct rlimit before, few;
	unsigned refused = 0;

	getrlimit(RLIMIT_NOFILE, &before);
	few = before;
	for (few.rlim_cur = 3; few.rlim_cur < 40; few.rlim_cur++) {
		int r;

		assert_int_equal(setrlimit(RLIMIT_NOFILE, &few), 0);
		r = lat_launch(&spec, &box, &error);
		setrlimit(RLIMIT_NOFILE, &before);
		if (r == 0)
			break;
		refused++;
		assert_true(error.text[0]);
	}
	assert_true(refused > 5 && few.rlim_cur < 40);
	lat_sandbox_close(&box);
}

static void a_sandbox_in_a_sandbox_is_refused(void **state)
{
	assert_int_equal(run("nested", ""), 0);
}

static const struct inside table[] = { { "powerless", in_powerless }, { "ids", in_ids },
	{ "descriptors", in_descriptors }, { "stdin", in_stdin }, { "hidden", in_hidden },
	{ "resolution", in_resolution }, { "kernel_files", in_kernel_files },
	{ "signals", in_signals }, { "surroundings", in_surroundings },
	{ "group_file", in_group_file }, { "nested", in_nested }, { NULL, NULL } };

static int make_folder(void **state)
{
	strcpy(folder + strlen(folder) - 6, "XXXXXX");
	return mkdtemp(folder) && !chmod(folder, 0755) ? 0 : -1;
}

static int remove_folder(void **state)
{
	static const char *const names[] = { "secret", "fixed", "free", "group", "vault/key",
		"vault" };

	for (size_t i = 0; i < sizeof(names) / sizeof(*names); i++)
		remove(in_folder(names[i]));
	return rmdir(folder);
}

static int tests(void)
{
	const struct CMUnitTest all[] = {
		cmocka_unit_test(statuses_are_the_commands),
		cmocka_unit_test(a_command_that_cannot_be_run_says_why),
		cmocka_unit_test(the_command_has_no_power),
		cmocka_unit_test(the_command_keeps_its_ids),
		cmocka_unit_test(supplementary_groups_keep_their_rights),
		cmocka_unit_test(inherited_descriptors_do_not_come_along),
		cmocka_unit_test(a_closed_stdin_is_the_null_device),
		cmocka_unit_test(sockets_of_the_host_do_not_come_in_as_stdin),
		cmocka_unit_test(hidden_is_hidden_and_readonly_is_readonly),
		cmocka_unit_test(names_are_resolved_by_the_supervisor),
		cmocka_unit_test(kernel_files_cannot_be_written),
		cmocka_unit_test(signals_are_as_the_caller_had_them),
		cmocka_unit_test(directory_environment_umask_and_limits_arrive),
		cmocka_unit_test(too_few_descriptors_are_an_error),
		cmocka_unit_test(a_sandbox_in_a_sandbox_is_refused),
	};

	return cmocka_run_group_tests_name("launcher", all, make_folder, remove_folder);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--outside") &&
		readlink("/proc/self/exe", sandbox_self, 4095) > 0)
		return run("stdin", "null");
	return sandbox_main(argc, argv, table, tests);
}
