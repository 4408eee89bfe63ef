"""The audit log: lines that stay, in files that do not grow for ever."""

import threading

import msgspec

from rung.store.audit import AuditLine, AuditLog


def line(number: int, **fields) -> AuditLine:
    return AuditLine(via="cli", what=f"promote {number}", outcome="done", by="ana", **fields)


def test_lines_come_back_the_newest_first_with_their_time(tmp_path):
    log = AuditLog(tmp_path / "audit")
    for number in range(3):
        log.write(line(number))

    found = list(AuditLog(tmp_path / "audit").read())
    assert [one.what for one in found] == ["promote 2", "promote 1", "promote 0"]
    assert found[0].at >= found[2].at > "2026"
    assert list(AuditLog(tmp_path / "nothing").read()) == []


def test_full_files_are_put_aside_and_the_oldest_go(tmp_path):
    log = AuditLog(tmp_path, largest=1000, kept=2)
    for number in range(100):
        log.write(line(number))

    files = [path.stat().st_size for path in tmp_path.glob("*.jsonl")]
    assert len(files) == 3
    assert max(files) <= 1000
    found = [int(one.what.split()[1]) for one in log.read()]
    assert found == list(range(99, 99 - len(found), -1))


def test_writers_do_not_lose_each_others_lines(tmp_path):
    def write(name: str) -> None:
        log = AuditLog(tmp_path, largest=4000, kept=99)
        for number in range(40):
            log.write(msgspec.structs.replace(line(number), by=name))

    threads = [threading.Thread(target=write, args=(f"t{index}",)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(one.by, one.what) for one in AuditLog(tmp_path).read()]
    assert len(found) == len(set(found)) == 160


def test_a_line_cut_off_by_a_crash_is_passed_over_and_long_texts_are_cut(tmp_path):
    log = AuditLog(tmp_path)
    log.write(line(1, why="x" * 9000))
    with (tmp_path / "audit.jsonl").open("ab") as file:
        file.write(b'{"via":"cl\n')
    log.write(line(2))

    assert [len(one.why) for one in log.read()] == [0, 2000]
