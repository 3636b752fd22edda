"""repl_terminal LATTICE SOCKET: drives `lattice repl` at a terminal as a person would; prints what was on the screen."""
import os, pty, select, sys, time

def main():
    pid, fd = pty.fork()
    if pid == 0:
        os.environ.update(TERM="xterm", NO_COLOR="1")
        os.execv(sys.argv[1], [sys.argv[1], "--socket", sys.argv[2], "repl"])
    screen = b""

    def until(text, start=0, seconds=15):
        nonlocal screen
        end = time.monotonic() + seconds
        while text not in screen[start:] and time.monotonic() < end:
            if select.select([fd], [], [], 0.5)[0]:
                try:
                    screen += os.read(fd, 65536)
                except OSError:
                    return
        if text not in screen[start:] and seconds == 15:
            sys.exit("no %r on the screen: %r" % (text, screen))

    def send(text, answer):
        start = len(screen)
        os.write(fd, text)
        until(answer, start)

    # A key that comes between the prompt and the terminal's raw mode means nothing there: it is pressed again.
    def press(key, answer):
        start, end = len(screen), time.monotonic() + 15
        while answer not in screen[start:] and time.monotonic() < end:
            os.write(fd, key)
            until(answer, start, 2)

    until(b"lattice> ")
    send(b"generat\t", b"ion")              # by completion
    send(b"().number == 1 and 'number: 1'\r", b"number: 1\r\nlattice> ")
    send(b"this line is given up", b"up")
    press(b"\x03", b"lattice> ")
    send(b"x = 0 for i = 1, 6 do\r", b">> ")
    send(b"x = x + 7 end\r", b"lattice> ")
    send(b"x\r", b"42\r\nlattice> ")
    send(b"print('begun') watch {}\r", b"begun\r\n")
    send(b"\x03", b"lattice> ")
    end, done = time.monotonic() + 15, 0
    while not done and time.monotonic() < end:
        os.write(fd, b"\x04")
        select.select([fd], [], [], 0.3)
        done, status = os.waitpid(pid, os.WNOHANG)
    if not done:
        sys.exit("Ctrl-D does not end it: %r" % screen)
    sys.stdout.buffer.write(screen)
    print("status", os.waitstatus_to_exitcode(status))

main()
