package systemd

import (
	"strings"
	"testing"
)

// hostile arguments, each of which must reach the program as it is.
var hostile = []string{
	"--config=/var/lib/kubelet/config.yaml", "", " ", "a b", "  lead and trail  ", `"`, `'`, `a"b'c`, `\`, `\\`, `a\`, `\n`, `\x41`, `\"`,
	"%", "%%", "%n", "100%", "%H%", "$", "$$", "$HOME", "${HOME}", "a$HOME", "a${HOME}b", "$$HOME", `\$HOME`, "$KUBELET_EXTRA_ARGS",
	";", "a;b", ";x", "#", "#x", "-", "@x", "!x", "+x", ":x", "|x", "=", "[Service]", "a=b,c=d", "ü", "節点", "👩‍🚀", "--node-labels=a/b=c.d_e-f", "*?[a]",
	"\u00a0", "\u00ad", "\ufeff", "~", "`id`", "$(id)", "&& rm", "> /x", strings.Repeat("x", 4000),
}

func TestEscapeReachesTheProgramUnchanged(t *testing.T) {
	env := []string{"HOME=/root", "KUBELET_EXTRA_ARGS=--evil x", "x=y"}
	for _, text := range hostile {
		roundTrip(t, text, env)
	}
}

func roundTrip(t *testing.T, text string, env []string) {
	t.Helper()
	word, err := Escape(text)
	if err != nil {
		t.Fatalf("%q is refused: %v", text, err)
	}
	// At the end of a line and at the start of a continued one: the two places
	// where a backslash, a # or a ; mean something else.
	file := "[Service]\nExecStart=/bin/x " + word + " \\\n    " + word + "\nRestart=no\n"
	list := values("Service", "ExecStart", file)
	if len(list) != 1 || len(parseUnitFile(file)) != 2 {
		t.Fatalf("%q changes the lines of the file: %q", text, parseUnitFile(file))
	}
	commands, err := splitExec(list[0])
	if err != nil || len(commands) != 1 {
		t.Fatalf("%q as %s: %d commands, %v", text, word, len(commands), err)
	}
	argv := atStart(commands[0], env...)
	if len(argv) != 3 || argv[1] != text || argv[2] != text {
		t.Errorf("%q as %s arrives as %q", text, word, argv)
	}
}

func TestEscapeRefuses(t *testing.T) {
	for name, text := range map[string]string{
		"a newline, which would begin another directive": "x\nExecStartPre=/bin/touch /pwned",
		"a carriage return":           "a\rb",
		"NUL":                         "a\x00b",
		"a tab":                       "a\tb",
		"escape":                      "\x1b[31m",
		"delete":                      "\x7f",
		"a C1 control":                "\u0085",
		"a line separator":            "a\u2028b",
		"a paragraph separator":       "a\u2029b",
		"a right-to-left override":    "a\u202eb",
		"a left-to-right isolate":     "a\u2066b",
		"an Arabic letter mark":       "a\u061cb",
		"half a character":            "a\xc3",
		"an overlong NUL":             "\xc0\x80",
		"a surrogate":                 "\xed\xa0\x80",
		"more than an argument holds": strings.Repeat("x", maxWord+1),
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := Escape(text); err == nil {
				t.Errorf("%q was taken as %s", text, shorten(got))
			}
		})
	}
}

func TestEscapeLeavesPlainWordsReadable(t *testing.T) {
	for _, text := range []string{"--config=/var/lib/kubelet/config.yaml", "--node-ip=fd00::1", "--node-labels=a/b=c,d=e", "--v=2"} {
		if got, err := Escape(text); err != nil || got != text {
			t.Errorf("%q became %s (%v)", text, got, err)
		}
	}
}

func TestPathsRefused(t *testing.T) {
	for _, path := range []string{"", "x", "./x", "/a/../b", "/a//b", "/a/", "/a\n/b", "/a\\", "/a*", "/a?", "/a[b]", "/a ", `/"a"`, "!/a", "|/a", "-/a"} {
		if got, err := escapePath(path); err == nil {
			t.Errorf("the path %q was taken as %q", path, got)
		}
	}
	if got, err := escapePath("/a b/100%"); err != nil || got != "/a b/100%%" {
		t.Errorf("got %q, %v", got, err)
	}
	for _, path := range []string{"kubelet", "@/bin/x", "-/bin/x", "+/bin/x", "!/bin/x", ":/bin/x", "/bin/$x", `/bin/"x"`, "/bin/'x", `/bin/\x`, "/bin/../x", "/bin/x\n", ""} {
		if got, err := escapeBinary(path); err == nil {
			t.Errorf("the program %q was taken as %q", path, got)
		}
	}
}

func FuzzEscape(f *testing.F) {
	for _, text := range hostile {
		if len(text) < 64 {
			f.Add(text)
		}
	}
	f.Add("a\nb")
	f.Add("a\xff")
	f.Fuzz(func(t *testing.T, text string) {
		word, err := Escape(text)
		if err != nil {
			if CheckText(text) == nil {
				t.Fatalf("%q is refused without a reason: %v", text, err)
			}
			return
		}
		if strings.ContainsAny(word, "\n\r\x00") {
			t.Fatalf("%q left its line: %q", text, word)
		}
		roundTrip(t, text, []string{"A=b", "HOME=/"})
	})
}
