import logging
import threading

from fedfs.nnunet.system.output import capture_output

log = logging.getLogger("nnunet.test")


def test_prints_of_this_thread_become_log_lines(capsys, caplog):
    with caplog.at_level(logging.DEBUG), capture_output(log):
        print("Using device:", "cpu")  # noqa: T201  what is tested
        print()  # noqa: T201  what is tested
    assert capsys.readouterr().out == ""
    assert [record.message for record in caplog.records] == ["Using device: cpu"]


def test_callbacks_and_other_threads_print_as_before(capsys, caplog):
    with caplog.at_level(logging.DEBUG), capture_output(log) as output:
        output.outside(print)("progress")
        thread = threading.Thread(target=print, args=("elsewhere",))
        thread.start()
        thread.join()
    assert capsys.readouterr().out == "progress\nelsewhere\n"
    assert not caplog.records


def test_output_is_back_afterwards(capsys):
    with capture_output(log):
        pass
    print("hello")  # noqa: T201  what is tested
    assert capsys.readouterr().out == "hello\n"
