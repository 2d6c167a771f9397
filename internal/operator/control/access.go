package control

import (
	"fmt"
	"os"
	"os/user"
	"strconv"
	"strings"
)

// Users is a list of login names, as authorized_mailq_users and its kin give
// it: "static:anyone", names, "!name" to except one, "/file" for a file of
// more of the same. The first entry that fits decides; a user whom none fits
// is not on the list.
type Users struct {
	entries []userEntry
}

type userEntry struct {
	name string // "" stands for everyone
	deny bool
}

// Anyone is the list with everyone on it, the default of Postfix's.
func Anyone() Users { return Users{entries: []userEntry{{}}} }

// ParseUsers reads a list. Files are read now; their lines may hold several
// entries, and a "#" begins a comment.
func ParseUsers(list []string) (Users, error) {
	var u Users
	for _, entry := range list {
		name, deny := entry, false
		for strings.HasPrefix(name, "!") {
			name, deny = name[1:], !deny
		}
		switch {
		case strings.HasPrefix(name, "/"):
			if err := u.file(name, deny); err != nil {
				return u, err
			}
		case strings.HasPrefix(name, "static:"):
			u.entries = append(u.entries, userEntry{deny: deny})
		case strings.Contains(name, ":"):
			return u, fmt.Errorf("%s: only static: tables can list users", entry)
		case name != "":
			u.entries = append(u.entries, userEntry{name: name, deny: deny})
		}
	}
	return u, nil
}

func (u *Users) file(path string, deny bool) error {
	b, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(b)) {
		line, _, _ = strings.Cut(line, "#")
		more, err := ParseUsers(strings.FieldsFunc(line, func(r rune) bool { return strings.ContainsRune(", \t\r\n", r) }))
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		for _, e := range more.entries {
			e.deny = e.deny != deny
			u.entries = append(u.entries, e)
		}
	}
	return nil
}

// Has tells whether a user is on the list.
func (u Users) Has(name string) bool {
	for _, e := range u.entries {
		if e.name == "" || e.name == name {
			return !e.deny
		}
	}
	return false
}

// Access is who may do what; see the package comment.
type Access struct {
	Owner int   // user ID of mail_owner, who may do everything as root may; -1 when there is none
	List  Users // who may look (authorized_mailq_users)
	Flush Users // who may retry (authorized_flush_users)
}

// UserName is the login name of a user ID, "unknown" when it has none, as
// Postfix's diagnostics show it.
func UserName(uid int) string {
	u, err := user.LookupId(strconv.Itoa(uid))
	if err != nil {
		return "unknown"
	}
	return u.Username
}
