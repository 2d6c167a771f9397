package lint

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
)

const root = "../.."

// Sizes past which code is hard to hold in one's head.
const (
	maxFileLines     = 600
	maxFunctionLines = 60
	maxPackageLines  = 2500
)

// eachSource parses every Go file of the module that is not a test.
func eachSource(t *testing.T, visit func(path string, fset *token.FileSet, f *ast.File)) {
	t.Helper()
	fset := token.NewFileSet()
	files := 0
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && (d.Name() == "testdata" || d.Name() == ".git" || d.Name() == "tools") {
			return fs.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		files++
		visit(strings.TrimPrefix(path, root+"/"), fset, f)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 30 {
		t.Fatalf("found only %d files: wrong directory?", files)
	}
}

// TestNoHiddenStartup: everything is built by a constructor that someone
// calls, so that "go to definition" finds it and two of it can exist.
func TestNoHiddenStartup(t *testing.T) {
	eachSource(t, func(path string, fset *token.FileSet, f *ast.File) {
		for _, d := range f.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Recv == nil && fn.Name.Name == "init" {
				t.Errorf("%s: func init(): construct it where it is used", fset.Position(fn.Pos()))
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if call, ok := n.(*ast.CallExpr); ok {
				if id, ok := call.Fun.(*ast.Ident); ok && id.Name == "panic" {
					t.Errorf("%s: panic: return an error", fset.Position(call.Pos()))
				}
			}
			return true
		})
	})
}

// TestNoAssignedPackageVariables: package variables are constants that Go
// cannot express (errors, tables); nothing assigns to them.
func TestNoAssignedPackageVariables(t *testing.T) {
	vars := map[string]map[string]bool{}
	eachSource(t, func(path string, _ *token.FileSet, f *ast.File) {
		dir := filepath.Dir(path)
		for _, d := range f.Decls {
			g, ok := d.(*ast.GenDecl)
			if !ok || g.Tok != token.VAR {
				continue
			}
			for _, s := range g.Specs {
				for _, name := range s.(*ast.ValueSpec).Names {
					if vars[dir] == nil {
						vars[dir] = map[string]bool{}
					}
					vars[dir][name.Name] = true
				}
			}
		}
	})
	eachSource(t, func(path string, fset *token.FileSet, f *ast.File) {
		ast.Inspect(f, func(n ast.Node) bool {
			as, ok := n.(*ast.AssignStmt)
			if !ok || as.Tok == token.DEFINE {
				return true
			}
			for _, lhs := range as.Lhs {
				// An identifier resolved to a local object is a local variable of the same name.
				if id, ok := lhs.(*ast.Ident); ok && id.Name != "_" && (id.Obj == nil || id.Obj.Kind == ast.Var && isPackageLevel(f, id)) && vars[filepath.Dir(path)][id.Name] {
					t.Errorf("%s: assigns to package variable %s", fset.Position(as.Pos()), id.Name)
				}
			}
			return true
		})
	})
}

func isPackageLevel(f *ast.File, id *ast.Ident) bool {
	return f.Scope != nil && f.Scope.Lookup(id.Name) == id.Obj
}

// TestSizes keeps files, functions and packages small enough to read.
func TestSizes(t *testing.T) {
	packages := map[string]int{}
	eachSource(t, func(path string, fset *token.FileSet, f *ast.File) {
		lines := fset.File(f.Pos()).LineCount()
		packages[filepath.Dir(path)] += lines
		if lines > maxFileLines {
			t.Errorf("%s has %d lines, more than %d", path, lines, maxFileLines)
		}
		for _, d := range f.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok {
				continue
			}
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if n > maxFunctionLines {
				t.Errorf("%s: %s has %d lines, more than %d", fset.Position(fn.Pos()), fn.Name.Name, n, maxFunctionLines)
			}
		}
	})
	for dir, n := range packages {
		if n > maxPackageLines {
			t.Errorf("package %s has %d lines, more than %d", dir, n, maxPackageLines)
		}
	}
}

// TestPackagesExplainThemselves: every package has a package comment.
func TestPackagesExplainThemselves(t *testing.T) {
	documented := map[string]bool{}
	eachSource(t, func(path string, _ *token.FileSet, f *ast.File) {
		dir := filepath.Dir(path)
		documented[dir] = documented[dir] || f.Doc != nil && len(f.Doc.Text()) > 60
	})
	for dir, ok := range documented {
		if !ok {
			t.Errorf("package %s has no package comment worth the name", dir)
		}
	}
}
