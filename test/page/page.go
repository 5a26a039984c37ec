// Package page takes commands out of the pages in docs/, so that what stands there
// is what tests run. It runs nothing itself and never changes a page.
//
//	page + the name of a step -> the commands behind its mark
package page

import (
	"fmt"
	"strings"
)

// Commands returns the block behind the mark <!-- run: step -->: its indented
// lines, without their indentation, up to the first that is not. A mark that is
// not there, or has no commands behind it, is an error.
func Commands(page, step string) (string, error) {
	_, after, found := strings.Cut(page, "<!-- run: "+step+" -->\n\n")
	if !found {
		return "", fmt.Errorf("no commands are marked with %q", step)
	}
	var script strings.Builder
	for line := range strings.Lines(after) {
		command, indented := strings.CutPrefix(line, "    ")
		if !indented {
			break
		}
		script.WriteString(command)
	}
	if script.Len() == 0 {
		return "", fmt.Errorf("no commands stand behind the mark %q", step)
	}
	return script.String(), nil
}
