"""The relay: the fast part of the proxy, inside gunicorn.

A gunicorn worker whose event loop moves plain requests to engines and their answers back, byte for
byte. Whatever is not plain it gives to gunicorn's parser and the Flask application, with every byte
read so far, so that the fast way never has to be complete, only right.

    worker      the gunicorn worker: accepts, ticks, drains
    loads       how many connections each process has, for an even share
    threads     connections on their way through the application
    relay       what all connections of a process share
    caller      one caller's connection: reads heads, chooses the way
    model_caller    the same, for requests to models: finds a replica, or waits for one
    asking      what is kept of such a request until an engine has it
    joined      a stream that began before its engine's answer (pure)
    engine      one connection to an engine: where its answer ends
    pump        long streams, passed on by compiled code where there is some (pump.c)
    compiled    makes that code, where a C compiler is, and finds it
    pool        connections to engines that wait for their next request
    clock       the time of one event loop
    admission   who may go the fast way, and to which instance
    request     a request's head in strict plain form (pure)
    answer      an answer's head, checked and rewritten (pure)
    chunks      where a chunked body ends (pure)
    repeated    heads that were read before (pure)
    collecting  when a thread may have a request (pure)
    kept        what comes of a long body before that, in a file
    refusal     errors as bytes of HTTP (pure)
"""
