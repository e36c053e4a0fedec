"""One way to read a log: what training, `prepare`, `recommend`, `plot` and `datasets` all read events by.

    rules         what an atomic file is: titles, separators, units of times, the calendar; nothing large is imported
    parsing       what stands in a cell: tokens, numbers, times
    file_readers  files as batches of columns, in bounded memory: atomic files, CSV, JSON lines, Parquet
    whole_files   all of an atomic file at once, as fast as can be: for training
    row_counts    what has become of the rows of a file, counted by cause, with the first lines of each

The room lies on the ground floor, below `compat`, so that RecBole's data sets read by it (see `compat.atomic_files`),
below `prepare`, whose files become data sets, and below `recommending`, whose histories were perhaps trained on.

The rules
- An atomic file (NAME.inter, .user, .item; a .tsv with titles name:type) has no quoting and no words for what is
  missing: a token is the text between two separators, a double quote or NA included; an empty cell is missing. A CSV
  file has double quotes as in RFC 4180; in it the words of `rules.MISSING` without quotes are missing, and in quotes
  they are text. JSON and Parquet say themselves what is missing; their text is never a word for it.
- A byte order mark and lines that end in CR LF are read. A CR alone, a zero byte, bytes that are no UTF-8 (or not of
  the `encoding` of the settings) and quotes that RFC 4180 does not know are refused, with the line.
- A row with too few or too many cells, or without user, item or (where it is read) time, or with a time that is none or
  not of the calendar, is left out; these are counted by cause, and told with the lines of the first ones.
- Times are numbers in s, ms, us or ns, whichever makes a typical one a date of today's calendar, or dates as in ISO
  8601, in UTC where they name no zone. Both are said. The calendar ends with the year 9999.
- 5 and 5.0 are one name where numbers are typed or written by a program: in JSON, Parquet and CSV.
"""
