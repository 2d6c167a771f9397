package maillog

import (
	"encoding/json"
	"strconv"
	"time"
	"unicode/utf8"
)

// appendJSON writes an event as one JSON object: time (RFC 3339, microseconds,
// local offset), host, service, pid, severity, event, then Event.Fields in
// their order.
func appendJSON(b []byte, opt *Options, now time.Time, service string, sev Severity, ev Event) []byte {
	b = append(b, `{"time":"`...)
	b = now.AppendFormat(b, "2006-01-02T15:04:05.000000Z07:00")
	b = append(b, `","host":`...)
	b = appendJSONString(b, opt.Hostname)
	b = append(b, `,"service":`...)
	b = appendJSONString(b, service)
	b = append(b, `,"pid":`...)
	b = strconv.AppendInt(b, int64(opt.PID), 10)
	b = append(b, `,"severity":"`...)
	b = append(b, sev.String()...)
	b = append(b, `","event":`...)
	b = appendJSONString(b, ev.Kind())
	ev.Fields(opt.IDs, func(name string, value any) {
		b = append(b, ',')
		b = appendJSONString(b, name)
		b = append(b, ':')
		b = appendJSONValue(b, value)
	})
	return append(b, '}')
}

// String is "info", "warning", "error" or "fatal".
func (s Severity) String() string {
	switch s {
	case Warning:
		return "warning"
	case Error:
		return "error"
	case Fatal:
		return "fatal"
	default:
		return "info"
	}
}

func appendJSONValue(b []byte, value any) []byte {
	switch v := value.(type) {
	case string:
		return appendJSONString(b, v)
	case int:
		return strconv.AppendInt(b, int64(v), 10)
	case int64:
		return strconv.AppendInt(b, v, 10)
	case bool:
		return strconv.AppendBool(b, v)
	case float64:
		return appendSeconds(b, v)
	case []float64:
		b = append(b, '[')
		for i, f := range v {
			if i > 0 {
				b = append(b, ',')
			}
			b = appendSeconds(b, f)
		}
		return append(b, ']')
	}
	enc, err := json.Marshal(value)
	if err != nil {
		return appendJSONString(b, "unprintable: "+err.Error())
	}
	return append(b, enc...)
}

// appendSeconds writes a number with at most microseconds: durations come out
// of float arithmetic, and nobody wants 0.30000000000000004.
func appendSeconds(b []byte, f float64) []byte {
	if !(f > -1e15 && f < 1e15) { // JSON has no NaN and no infinity
		return append(b, "null"...)
	}
	b = strconv.AppendFloat(b, f, 'f', 6, 64)
	for b[len(b)-1] == '0' {
		b = b[:len(b)-1]
	}
	if b[len(b)-1] == '.' {
		b = b[:len(b)-1]
	}
	return b
}

// appendJSONString quotes s (RFC 8259 §7). Malformed UTF-8 becomes U+FFFD, as
// encoding/json does; nothing that sanitize would touch is left over.
func appendJSONString(b []byte, s string) []byte {
	const hex = "0123456789abcdef"
	b = append(b, '"')
	for i := 0; i < len(s); {
		c := s[i]
		if c >= ' ' && c < 0x7f {
			if c == '"' || c == '\\' {
				b = append(b, '\\')
			}
			b = append(b, c)
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		switch {
		case r == utf8.RuneError && n == 1:
			b = append(b, `\ufffd`...)
		case r < 0xa0 || r == '\u2028' || r == '\u2029':
			b = append(b, '\\', 'u', hex[r>>12&15], hex[r>>8&15], hex[r>>4&15], hex[r&15])
		default:
			b = append(b, s[i:i+n]...)
		}
		i += n
	}
	return append(b, '"')
}
