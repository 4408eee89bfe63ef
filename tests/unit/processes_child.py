"""The child's side of test_processes.py: does what the first argument or a message says."""

import ctypes
import os
import signal
import subprocess
import sys
import time

import numpy as np

from rung.processes import attach


def main():
    channel = attach()
    if sys.argv[1:] == ["refuse"]:
        sys.stderr.write("cannot find the weights\n")
        sys.exit(3)
    if sys.argv[1:] == ["silent"]:
        time.sleep(60)
    grandchild = None
    if sys.argv[1:] == ["family"]:
        grandchild = subprocess.Popen(["sleep", "600"])
    if sys.argv[1:] == ["stubborn"]:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    channel.send("ready", {"pid": os.getpid(), "grandchild": grandchild.pid if grandchild else 0})
    while True:
        try:
            message = channel.receive()
        except EOFError:
            return
        match message.kind:
            case "echo":
                channel.send("echo", message.detail, message.tensors)
            case "many":
                for number in range(message.detail):
                    channel.send("one", number, {"x": np.full(number, number, "<i8")})
            case "allocate":
                try:
                    bytearray(message.detail)
                    channel.send("done")
                except MemoryError:
                    channel.send("refused")
            case "burn":
                while True:
                    pass
            case "print":
                sys.stdout.write(message.detail + "\n")
                sys.stdout.flush()
                channel.send("done")
            case "exit":
                os._exit(message.detail)
            case "fork and exit":
                if os.fork():
                    os._exit(5)
                time.sleep(60)
            case "crash":
                ctypes.string_at(0)
            case "nonsense":
                channel._socket.sendall(b"\xff" * 64)
                time.sleep(60)


main()
