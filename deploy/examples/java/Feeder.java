import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.StandardCopyOption;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.Types;
import java.util.ArrayList;
import java.util.List;

/**
 * Feeds receiptd and follows its answers. Needs Java 17 or newer and the driver org.xerial:sqlite-jdbc
 * (Debian: libxerial-sqlite-jdbc-java), or org.postgresql:postgresql (Debian: libpostgresql-jdbc-java).
 *
 * <pre>
 * java -cp sqlite-jdbc.jar Feeder.java add KEY [EXPECTED_READERS]    one message that the bot sent
 * java -cp sqlite-jdbc.jar Feeder.java follow CURSOR_FILE            prints each new reader, for ever
 * java -cp sqlite-jdbc.jar Feeder.java cancel KEY                    asks no more for this message
 * </pre>
 *
 * The database is $RECEIPTD_DATABASE: a file, or jdbc:postgresql://HOST/DATABASE?user=USER; /var/lib/receiptd/receiptd.db where that
 * is not set.
 */
public final class Feeder {
    record Reader(long id, String key, String user) {}

    static Connection connect() throws SQLException {
        String database = System.getenv().getOrDefault("RECEIPTD_DATABASE", "/var/lib/receiptd/receiptd.db");
        if (database.startsWith("jdbc:")) {
            return DriverManager.getConnection(database);
        }
        Connection db = DriverManager.getConnection("jdbc:sqlite:" + database);
        try (var statement = db.createStatement()) {
            statement.execute("PRAGMA busy_timeout = 5000"); // Wait for another writer.
            statement.execute("PRAGMA wal_autocheckpoint = 0"); // receiptd does that.
        }
        return db;
    }

    /** Inserts a message; whether it is a new one. */
    static boolean add(Connection db, String key, Integer expectedReaders) throws SQLException {
        String insert = "INSERT INTO messages (process_query_key, expected_readers) VALUES (?, ?) ON CONFLICT DO NOTHING";
        try (var statement = db.prepareStatement(insert)) {
            statement.setString(1, key);
            statement.setObject(2, expectedReaders, Types.INTEGER);
            return statement.executeUpdate() == 1;
        }
    }

    /** Whether the message was still asked for. */
    static boolean cancel(Connection db, String key) throws SQLException {
        String update = "UPDATE messages SET state = 'cancelled' WHERE process_query_key = ? AND state = 'pending'";
        try (var statement = db.prepareStatement(update)) {
            statement.setString(1, key);
            return statement.executeUpdate() == 1;
        }
    }

    /** Readers beyond the cursor, in order. Read whole and closed: a half-read result would keep a transaction open. */
    static List<Reader> newReaders(Connection db, long cursor) throws SQLException {
        String select = "SELECT id, process_query_key, user_id FROM readers WHERE id > ? ORDER BY id LIMIT 500";
        List<Reader> readers = new ArrayList<>();
        try (var statement = db.prepareStatement(select)) {
            statement.setLong(1, cursor);
            try (var rows = statement.executeQuery()) {
                while (rows.next()) {
                    readers.add(new Reader(rows.getLong(1), rows.getString(2), rows.getString(3)));
                }
            }
        }
        return readers;
    }

    static void follow(Connection db, Path cursorFile) throws Exception {
        // The cursor is best kept where your own results are, in one transaction with them. A file does for a program
        // that may do its work twice after a crash.
        long cursor = Files.exists(cursorFile) ? Long.parseLong(Files.readString(cursorFile).strip()) : 0;
        while (true) {
            List<Reader> batch = newReaders(db, cursor);
            for (Reader reader : batch) {
                System.out.println(reader.user() + " has read " + reader.key());
                cursor = reader.id();
            }
            if (batch.isEmpty()) {
                Thread.sleep(1000);
                continue;
            }
            Path draft = Path.of(cursorFile + ".new");
            Files.writeString(draft, Long.toString(cursor));
            Files.move(draft, cursorFile, StandardCopyOption.ATOMIC_MOVE, StandardCopyOption.REPLACE_EXISTING);
        }
    }

    public static void main(String[] arguments) throws Exception {
        String command = arguments.length < 2 ? "" : arguments[0];
        switch (command + arguments.length) {
            case "add2" -> System.out.println(add(connect(), arguments[1], null) ? "added" : "known");
            case "add3" -> System.out.println(add(connect(), arguments[1], Integer.valueOf(arguments[2])) ? "added" : "known");
            case "cancel2" -> System.out.println(cancel(connect(), arguments[1]) ? "cancelled" : "not pending");
            case "follow2" -> follow(connect(), Path.of(arguments[1]));
            default -> {
                System.err.println("usage: Feeder.java add KEY [EXPECTED_READERS] | follow CURSOR_FILE | cancel KEY");
                System.exit(1);
            }
        }
    }
}
