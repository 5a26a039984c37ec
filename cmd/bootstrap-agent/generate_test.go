package main

import (
	"os"
	"testing"
)

// What is generated and checked in is what the program would write now.
func TestGeneratedFilesAreCurrent(t *testing.T) {
	read := func(path string) string {
		t.Helper()
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	if read("../../packaging/config.example.yaml") != exampleConfig() {
		t.Error("packaging/config.example.yaml is not what the table of keys says: make generate")
	}
	const page = "../../docs/operations.md"
	old := read(page)
	renewed, err := spliced((&app{}).rootCommand(), page, old)
	if err != nil {
		t.Fatal(err)
	}
	if renewed != old {
		t.Errorf("%s is not what the tables say: make generate", page)
	}
}
