package house

import (
	"go/ast"
	"regexp"
	"strings"
	"testing"
)

// maxLines is how long a file of the product may be: what fits one sitting. Tests
// may be longer, a table is read row by row.
const maxLines = 450

var never = regexp.MustCompile(`(?i)\bnever\b`)

func TestEveryPackageSaysWhatItDoesAndWhatItNeverDoes(t *testing.T) {
	for folder, files := range packages(tree(t)) {
		var comments []string
		for _, f := range files {
			if f.syntax.Doc != nil && !f.test {
				comments = append(comments, f.syntax.Doc.Text())
			}
		}
		switch {
		case onlyTests(files):
			// A folder of tests alone has no package that anybody reads about.
		case len(comments) != 1:
			t.Errorf("%s: %d package comments, want one", folder, len(comments))
		case strings.Count(comments[0], "\n") < 3:
			t.Errorf("%s: the package comment has fewer than 3 lines: say what it does, with the flow of its data", folder)
		case !never.MatchString(comments[0]):
			t.Errorf("%s: the package comment does not say what the package never does", folder)
		}
	}
}

func TestEveryExportedNameHasADocComment(t *testing.T) {
	for _, f := range tree(t) {
		if f.test {
			continue
		}
		for _, name := range undocumented(f.syntax) {
			t.Errorf("%s: %s is exported and has no doc comment", f.path, name)
		}
	}
}

func TestNoFileIsTooLongToRead(t *testing.T) {
	for _, f := range tree(t) {
		if !f.test && f.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: it does more than one thing", f.path, f.lines, maxLines)
		}
	}
}

func onlyTests(files []file) bool {
	for _, f := range files {
		if !f.test {
			return false
		}
	}
	return true
}

// undocumented lists the exported names at the top level of a file that have no
// comment: functions, methods on exported types, types, constants and variables
// (a comment on their group or behind them counts).
func undocumented(syntax *ast.File) []string {
	var names []string
	for _, decl := range syntax.Decls {
		switch decl := decl.(type) {
		case *ast.FuncDecl:
			if decl.Name.IsExported() && decl.Doc == nil && receiverExported(decl) {
				names = append(names, decl.Name.Name)
			}
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				names = append(names, undocumentedSpec(decl, spec)...)
			}
		}
	}
	return names
}

func undocumentedSpec(decl *ast.GenDecl, spec ast.Spec) []string {
	var names []string
	switch spec := spec.(type) {
	case *ast.TypeSpec:
		if spec.Name.IsExported() && spec.Doc == nil && decl.Doc == nil && spec.Comment == nil {
			names = append(names, spec.Name.Name)
		}
	case *ast.ValueSpec:
		if spec.Doc != nil || spec.Comment != nil || decl.Doc != nil {
			return nil
		}
		for _, name := range spec.Names {
			if name.IsExported() {
				names = append(names, name.Name)
			}
		}
	}
	return names
}

// receiverExported is true for functions, and for methods that a reader of the
// documentation sees.
func receiverExported(decl *ast.FuncDecl) bool {
	if decl.Recv == nil || len(decl.Recv.List) == 0 {
		return true
	}
	expr := decl.Recv.List[0].Type
	for {
		switch e := expr.(type) {
		case *ast.StarExpr:
			expr = e.X
		case *ast.IndexExpr:
			expr = e.X
		case *ast.IndexListExpr:
			expr = e.X
		case *ast.Ident:
			return e.IsExported()
		default:
			return true
		}
	}
}
