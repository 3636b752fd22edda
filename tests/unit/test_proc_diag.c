/* What the kernel tells about other tasks and sockets (kernel/proc, kernel/diag): sockets of loopback, a folder and
 * threads of our own. */
#include "base/mem.h"
#include "kernel/diag.h"
#include "kernel/proc.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <linux/netlink.h>
#include <cmocka.h>

static int diag_fd;

static int open_diag(void **state)
{
	diag_fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	return diag_fd < 0;
}

static int close_diag(void **state)
{
	lat_close(&diag_fd);
	return 0;
}

static void name_of(int fd, struct lat_addr *a, uint16_t *port)
{
	struct sockaddr_storage ss;
	socklen_t n = sizeof(ss);

	assert_int_equal(getsockname(fd, (struct sockaddr *)&ss, &n), 0);
	assert_int_equal(lat_addr_from_sockaddr((struct sockaddr *)&ss, n, a, port), 0);
}

static uint32_t inode_of(int fd)
{
	struct stat st;

	assert_int_equal(fstat(fd, &st), 0);
	return (uint32_t)st.st_ino;
}

static void bind_loopback(int fd, int family)
{
	struct lat_addr one;
	struct sockaddr_storage ss;
	socklen_t n;

	assert_int_equal(lat_addr_parse(family == AF_INET ? "127.0.0.1" : "::1", &one), 0);
	n = lat_addr_to_sockaddr(&one, 0, false, &ss);
	assert_int_equal(bind(fd, (struct sockaddr *)&ss, n), 0);
}

static void finds(int fd, uint8_t proto, const struct lat_addr *remote, uint16_t rport)
{
	struct lat_proc_hint hint = { 0 };
	struct lat_diag_socket s = { 0 };
	struct lat_addr local;
	uint16_t lport;

	name_of(fd, &local, &lport);
	assert_int_equal(lat_diag_inet(diag_fd, proto, &local, lport, remote, rport, &s), 0);
	assert_int_equal(s.inode, inode_of(fd));
	assert_int_equal(s.uid, geteuid());
	assert_int_equal(lat_proc_find_socket(s.inode, 0, &hint), getpid());
	assert_int_equal(hint.fd, fd);
	assert_int_equal(lat_proc_find_socket(s.inode, lat_proc_socket_netns(fd), &hint), getpid());
}

static void a_tcp_socket_is_found_by_its_tuple(void **state)
{
	static const int families[] = { AF_INET, AF_INET6 };

	for (size_t i = 0; i < 2; i++) {
		lat_autoclose int l = socket(families[i], SOCK_STREAM | SOCK_CLOEXEC, 0);
		lat_autoclose int c = socket(families[i], SOCK_STREAM | SOCK_CLOEXEC, 0);
		struct lat_addr remote;
		struct sockaddr_storage ss;
		uint16_t port;
		socklen_t n;

		bind_loopback(l, families[i]);
		assert_int_equal(listen(l, 1), 0);
		name_of(l, &remote, &port);
		n = lat_addr_to_sockaddr(&remote, port, false, &ss);
		assert_int_equal(connect(c, (struct sockaddr *)&ss, n), 0);
		finds(c, IPPROTO_TCP, &remote, port);
	}
}

static void a_udp_socket_is_found_connected_or_not(void **state)
{
	lat_autoclose int u = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	struct lat_addr remote;
	struct sockaddr_storage ss;
	socklen_t n;

	bind_loopback(u, AF_INET);
	assert_int_equal(lat_addr_parse("127.0.0.9", &remote), 0);
	finds(u, IPPROTO_UDP, &remote, 9);
	n = lat_addr_to_sockaddr(&remote, 9, false, &ss);
	assert_int_equal(connect(u, (struct sockaddr *)&ss, n), 0);
	finds(u, IPPROTO_UDP, &remote, 9);
}

static void an_unknown_tuple_is_not_found(void **state)
{
	struct lat_diag_socket s = { .inode = 7 };
	struct lat_addr a;

	assert_int_equal(lat_addr_parse("127.0.0.9", &a), 0);
	assert_int_equal(lat_diag_inet(diag_fd, IPPROTO_TCP, &a, 1, &a, 2, &s), -ENOENT);
	assert_int_equal(lat_diag_inet(diag_fd, IPPROTO_UDP, &a, 1, &a, 2, &s), -ENOENT);
	assert_int_equal(s.inode, 7);
	assert_int_equal(lat_diag_inet(diag_fd, IPPROTO_ICMP, &a, 1, &a, 2, &s), -EPROTONOSUPPORT);
}

static void only_a_listening_unix_socket_counts(void **state)
{
	char dir[] = "/tmp/lat-diag-XXXXXX";
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	lat_autoclose int l = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	lat_autoclose int c = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	lat_autoclose int accepted = -1;
	char name[128], moved[64];
	struct stat st;

	assert_non_null(mkdtemp(dir));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/s", dir);
	assert_int_equal(bind(l, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(stat(a.sun_path, &st), 0);
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino, NULL, 0), 0);
	assert_int_equal(listen(l, 1), 0);
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino, NULL, 0), 1);
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino + 1, NULL, 0), 0);
	snprintf(moved, sizeof(moved), "%s/moved", dir);
	assert_int_equal(rename(a.sun_path, moved), 0);
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino, name, sizeof(name)), 1);
	assert_string_equal(name, a.sun_path); /* as it was bound */
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino, name, 3), 1);
	assert_string_equal(name, "");
	assert_int_equal(rename(moved, a.sun_path), 0);
	assert_int_equal(connect(c, (struct sockaddr *)&a, sizeof(a)), 0);
	accepted = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	assert_true(accepted >= 0);
	lat_close(&l); /* `accepted` still carries the file */
	assert_int_equal(lat_diag_unix_listens(diag_fd, st.st_dev, st.st_ino, NULL, 0), 0);
	assert_int_equal(unlink(a.sun_path), 0);
	assert_int_equal(rmdir(dir), 0);
}

static void memory_is_copied_whole_or_not_at_all(void **state)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	char *p = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	char buf[32] = { 0 };

	assert_ptr_not_equal(p, MAP_FAILED);
	assert_int_equal(munmap(p + page, page), 0);
	memcpy(p + page - 16, "sixteen bytes...", 16);
	assert_int_equal(lat_proc_read(getpid(), (uintptr_t)(p + page - 16), buf, 16), 0);
	assert_memory_equal(buf, "sixteen bytes...", 16);
	assert_int_equal(lat_proc_read(getpid(), (uintptr_t)(p + page - 16), buf, 17), -EFAULT);
	assert_int_equal(lat_proc_read(getpid(), 8, buf, 1), -EFAULT);
	munmap(p, page);
}

static void *say_tid_and_wait(void *arg)
{
	int *fds = arg, tid = (int)syscall(SYS_gettid);
	char c;

	if (write(fds[0], &tid, sizeof(tid)) < 0 || read(fds[1], &c, 1) < 0)
		return arg;
	return NULL;
}

static void a_thread_gives_its_process_and_ends_with_it(void **state)
{
	int out[2], in[2], fds[2], tid, copy;
	struct lat_proc p;
	pthread_t t;
	char exe[256];
	uid_t uid;

	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	fds[0] = out[1];
	fds[1] = in[0];
	assert_int_equal(pthread_create(&t, NULL, say_tid_and_wait, fds), 0);
	assert_int_equal(read(out[0], &tid, sizeof(tid)), sizeof(tid));
	assert_int_equal(lat_proc_open(tid, &p), 0);
	assert_int_equal(p.pid, getpid());
	assert_int_equal(p.tid, tid);
	assert_true(lat_proc_exe(&p, exe, sizeof(exe)) > 0);
	assert_non_null(strstr(exe, "test_proc_diag"));
	assert_true(lat_proc_cwd(&p, exe, sizeof(exe)) > 0);
	assert_int_equal(lat_proc_uid(&p, &uid), 0);
	assert_int_equal(uid, geteuid());
	copy = lat_proc_getfd(&p, out[0]);
	assert_true(copy >= 0);
	assert_true(fcntl(copy, F_GETFD) & FD_CLOEXEC);
	close(copy);
	assert_int_equal(lat_proc_getfd(&p, 9999), -EBADF);
	close(in[1]);
	pthread_join(t, NULL);
	if (p.exact) {
		struct pollfd ended = { .fd = p.pidfd, .events = POLLIN };

		assert_int_equal(poll(&ended, 1, 5000), 1);
		assert_int_equal(lat_proc_getfd(&p, out[0]), -ESRCH);
		assert_int_equal(lat_proc_exe(&p, exe, sizeof(exe)), -ESRCH);
		lat_proc_close(&p);
		assert_int_equal(lat_proc_open(tid, &p), -ESRCH);
	} else {
		lat_proc_close(&p);
	}
	close(out[0]);
	close(out[1]);
	close(in[0]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_tcp_socket_is_found_by_its_tuple),
		cmocka_unit_test(a_udp_socket_is_found_connected_or_not),
		cmocka_unit_test(an_unknown_tuple_is_not_found),
		cmocka_unit_test(only_a_listening_unix_socket_counts),
		cmocka_unit_test(memory_is_copied_whole_or_not_at_all),
		cmocka_unit_test(a_thread_gives_its_process_and_ends_with_it),
	};

	return cmocka_run_group_tests(tests, open_diag, close_diag);
}
