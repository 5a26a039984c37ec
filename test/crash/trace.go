package crash

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// Strace is the command line that writes a trace which ReadTrace understands. The
// program to run, or -p and a number, comes behind it. The tracer is a child
// (-D), so that the traced program is the one that was started.
func Strace(to string) []string {
	return []string{
		"strace", "-D", "-f", "-y", "-s", "1000000", "-o", to, "-e",
		"trace=openat,write,pwrite64,fsync,fdatasync,fchmod,fchmodat,rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,symlinkat,linkat,ftruncate,connect,sendmsg",
	}
}

// Op is one system call that went well. Begin and End number the lines of the
// trace: a call was over before another began if End < Begin.
type Op struct {
	Begin, End int
	Call       string // without "at": rename, unlink, mkdir, symlink, link, chmod, open, write, fsync ...
	Path       string // of the file or folder; of a socket its number
	To         string // rename, link: the new name; symlink: what it leads to
	Data       string // write, sendmsg
	Flags      string // open
	Mode       uint64 // open, mkdir, chmod
	At         int64  // pwrite64: where; ftruncate: how long
}

// Trace is what strace saw, in the order in which the calls ended.
type Trace []Op

// ReadTrace reads a file that strace wrote. Calls that failed are left out, but
// for a connect that is under way.
func ReadTrace(path string) (Trace, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	lines := bufio.NewReaderSize(f, 1<<20)
	var trace Trace
	type half struct {
		begin int
		text  string
	}
	open := map[string]half{} // by thread
	for n := 1; ; n++ {
		line, err := lines.ReadString('\n')
		if err != nil {
			return trace, nil // the end
		}
		thread, text, ok := strings.Cut(strings.TrimRight(line, "\n"), " ")
		text = strings.TrimLeft(text, " ")
		if !ok || strings.HasPrefix(text, "+++") || strings.HasPrefix(text, "---") {
			continue
		}
		begin := n
		if start, unfinished := strings.CutSuffix(text, " <unfinished ...>"); unfinished {
			open[thread] = half{n, start}
			continue
		}
		if strings.HasPrefix(text, "<... ") {
			_, rest, _ := strings.Cut(text, " resumed>")
			begin, text = open[thread].begin, open[thread].text+rest
			delete(open, thread)
		}
		op, ok, err := parseOp(text)
		if err != nil {
			return nil, fmt.Errorf("%s, line %d: %w", path, n, err)
		}
		if ok {
			op.Begin, op.End = begin, n
			trace = append(trace, op)
		}
	}
}

func parseOp(text string) (op Op, ok bool, err error) {
	name, rest, found := strings.Cut(text, "(")
	end := strings.LastIndex(rest, ") ")
	if !found || end < 0 {
		return op, false, nil
	}
	result := strings.TrimLeft(rest[end+2:], " ")
	if !strings.HasPrefix(result, "= ") {
		return op, false, nil
	}
	if strings.HasPrefix(result, "= -1 ") && !strings.Contains(result, "EINPROGRESS") {
		return op, false, nil
	}
	args := split(rest[:end])
	op.Call = strings.TrimSuffix(strings.TrimSuffix(name, "2"), "at")
	arg := func(i int) string {
		if i < len(args) {
			return args[i]
		}
		return ""
	}
	if strings.HasSuffix(strings.TrimSuffix(name, "2"), "at") {
		args = inFolders(args)
	}
	switch op.Call {
	case "open":
		op.Path, op.Flags = unquote(arg(0)), arg(1)
		op.Mode, err = mode(arg(2))
	case "write", "sendmsg":
		op.Path, op.Data = fdPath(arg(0)), unquote(arg(1))
		if op.Call == "sendmsg" {
			op.Data = arg(1)
		}
	case "pwrite64":
		op.Call, op.Path, op.Data = "write", fdPath(arg(0)), unquote(arg(1))
		op.At, err = strconv.ParseInt(arg(3), 10, 64)
	case "ftruncate":
		op.Path = fdPath(arg(0))
		op.At, err = strconv.ParseInt(arg(1), 10, 64)
	case "fsync", "fdatasync":
		op.Call, op.Path = "fsync", fdPath(arg(0))
	case "fchmod":
		op.Call = "chmod"
		if strings.HasPrefix(name, "fchmodat") {
			op.Path = unquote(arg(0))
		} else {
			op.Path = fdPath(arg(0))
		}
		op.Mode, err = mode(arg(1))
	case "rename", "link":
		op.Path, op.To = unquote(arg(0)), unquote(arg(1))
	case "symlink":
		op.To, op.Path = unquote(arg(0)), unquote(arg(1))
	case "unlink":
		op.Path = unquote(arg(0))
	case "mkdir":
		op.Path = unquote(arg(0))
		op.Mode, err = mode(arg(1))
	case "connect":
		op.Path, op.Data = fdPath(arg(0)), arg(1)
	default:
		return op, false, nil
	}
	return op, true, err
}

// inFolders puts each name that follows a handle of a folder, or AT_FDCWD, into
// that folder, and leaves the handles out.
func inFolders(args []string) (out []string) {
	for i := 0; i < len(args); i++ {
		folder := args[i]
		handle := strings.HasSuffix(folder, ">") && folder[0] >= '0' && folder[0] <= '9'
		if i+1 == len(args) || !handle && !strings.HasPrefix(folder, "AT_FDCWD") || !strings.HasPrefix(args[i+1], `"`) {
			out = append(out, folder)
			continue
		}
		i++
		if name := unquote(args[i]); handle && !filepath.IsAbs(name) {
			args[i] = strconv.Quote(filepath.Join(fdPath(folder), name))
		}
		out = append(out, args[i])
	}
	return out
}

func mode(text string) (uint64, error) {
	if text == "" {
		return 0, nil
	}
	return strconv.ParseUint(text, 8, 32)
}

// fdPath is /x of 9</x>.
func fdPath(arg string) string {
	_, path, _ := strings.Cut(arg, "<")
	return strings.TrimSuffix(path, ">")
}

// split splits the arguments of a call at its commas.
func split(text string) (args []string) {
	depth, quoted, from := 0, false, 0
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case strings.IndexByte("{[<", c) >= 0:
			depth++
		case strings.IndexByte("}]>", c) >= 0 && (c != '>' || i == 0 || text[i-1] != '='):
			depth--
		case c == ',' && depth == 0:
			args = append(args, strings.TrimSpace(text[from:i]))
			from = i + 1
		}
	}
	return append(args, strings.TrimSpace(text[from:]))
}

// unquote reads a string as strace writes it: C's escapes, octal ones as short as
// can be.
func unquote(text string) string {
	text = strings.TrimSuffix(text, "...")
	if len(text) < 2 || text[0] != '"' {
		return ""
	}
	text = text[1 : len(text)-1]
	var out strings.Builder
	for i := 0; i < len(text); i++ {
		if text[i] != '\\' || i+1 == len(text) {
			out.WriteByte(text[i])
			continue
		}
		i++
		if at := strings.IndexByte(`ntrvf`, text[i]); at >= 0 {
			out.WriteByte("\n\t\r\v\f"[at])
			continue
		}
		end := i
		for end < len(text) && end < i+3 && text[end] >= '0' && text[end] <= '7' {
			end++
		}
		if end == i {
			out.WriteByte(text[i])
			continue
		}
		n, _ := strconv.ParseUint(text[i:end], 8, 16)
		out.WriteByte(byte(n))
		i = end - 1
	}
	return out.String()
}

// isTemp says whether a path is one of a file that is being made.
func isTemp(path string) bool {
	return strings.HasPrefix(filepath.Base(path), ".bootstrap-agent-tmp-")
}
