"""The service: one store, many people. Pages to explore with, an API for programs, jobs behind it.

The way of a request, from the outside in:

    security    Host, Origin and token are checked, headers are set, the access log is written
    answer_cache  sends what is kept, has made what is not, and says how old it is
    answering_processes  make pages and answers beside this process, with the app below
    app         finds the page or the answer
    dependencies  gives it a `Workspace` that reads the store as it is now, and answers "not
                modified" where nobody has saved anything since the browser last asked
    pages, api  say what is asked of the workspace
    rendering, formats  make HTML, or JSON, CSV, Arrow, Parquet of it; `problems` of what went wrong

`service.Service` holds what all requests share: the settings, the open store, the answers that are
kept, the jobs.

How a page is added
-------------------
1. A file in `megasim/serve/pages/`, named after the page, with an `APIRouter` called `router`:

       router = APIRouter()

       @router.get("/matrix", response_class=HTMLResponse)
       def matrix_page(request: Request, store: ReadStore, component: str = "") -> Response:
           \"\"\"One sentence that says what the page shows.\"\"\"
           view = kept(request, ("matrix", component), lambda: store.matrix(component or None))
           return page(request, "matrix.html.j2", view=view)

   All of the state is in the parameters of the URL. A function without `async` runs in a thread, so
   it may take its time. `store` is a `Workspace`: a question is a method of it, and an error that
   it raises becomes a page that says the remedy.
2. Its template in `megasim/serve/templates/`, which begins with `{% extends "layout.html.j2" %}`
   and fills the blocks `title` and `main`. All that is printed is escaped, and control characters
   are shown as what they are; no filter is needed. `{{ data_links(…) }}` of `parts.html.j2` writes
   the links to JSON, CSV, Parquet and the SQL that belong to a table or a picture.
3. Its place in the navigation: one line of `PAGES` in `pages/__init__.py`. Where it depends on the
   store and its address alone, its name in `answers_apart.py`: then it is made beside the service.
4. Scripts and styles are files in `megasim/serve/static/`, linked as `/static/NAME`; the
   Content-Security-Policy lets nothing else run: no script within a page, no `onclick`, no other
   host. Data for a script stands in `<script type="application/json">`, or is fetched from the API.
5. What costs more than some milliseconds goes through `kept`, which keeps answers until the store
   changes, and lets a thousand people wait for one computation.
"""
