"""A stand-in for `vllm serve`: a real program with a real process tree and switches for faults.

Used where real vLLM cannot be made to show a fault. It imitates what vLLM 0.32 was seen to do and
imports the standard library only, so that it starts in the time of a bare interpreter.

    vllm, __main__  the command          server   listening, one thread per client
    flags           its command line     wire     one client's socket: HTTP/1.1 as bytes
    api_server      the main process     replies  answers, before they are sent
    child           EngineCore, Worker   routes   which path is answered by whom
    spawn           starting a child     generation, further, probes   the routes of vLLM, and of
                                         tests only
    log, faults     what it prints       journal, metrics     what happened so far
"""

VERSION = "0.32.0"
