"""Runs a program behind a network that misbehaves: network.py MODE COMMAND…

The program calls $PORT, and MODE says what becomes of its connections: `pass`, `cut` (the first one is closed), `silent`
(nothing is answered) or `away` (nothing listens). Prints the last line of the program, unless it takes too long."""

import os, socket, subprocess, sys, threading, time


class Network:
    """Forwards $PORT to a port of this machine, in this mode."""

    def __init__(self, mode, target):
        self.mode, self.target, self.sockets = mode, target, []
        if mode != "away":
            self.listener = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
            threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            self.sockets.append(client)
            if self.mode == "cut" and len(self.sockets) == 1:
                client.close()
            elif self.mode != "silent":
                service = socket.create_connection(("127.0.0.1", self.target))
                self.sockets.append(service)
                for ends in [(client, service), (service, client)]:
                    threading.Thread(target=self.copy, args=ends, daemon=True).start()

    @staticmethod
    def copy(source, target):
        try:
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.mode != "away":
            self.listener.shutdown(socket.SHUT_RDWR)  # wakes accept(), which keeps the port open
            self.listener.close()
        for each in self.sockets:
            each.close()


if __name__ == "__main__":
    with Network(sys.argv[1], int(os.environ["KEYED_PORT"])):
        begun = time.monotonic()
        program = subprocess.run(sys.argv[2:], stdout=subprocess.PIPE, text=True, timeout=30)
        seconds = time.monotonic() - begun
    last = (program.stdout.strip().splitlines() or ["no output"])[-1]
    print(last if seconds < 5 else f"{last} after {seconds:.1f} s")
